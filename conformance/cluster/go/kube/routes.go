package main

import (
	"context"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	coreinformers "k8s.io/client-go/informers/core/v1"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	"k8s.io/klog/v2"
)

// router keeps the host's routes to load balancers' addresses. Any node forwards to any endpoint, which is what the route
// to the whole range says; with `externalTrafficPolicy: Local` it has to be a node that has one.
type router struct {
	services coreinformers.ServiceInformer
	slices   discoveryinformers.EndpointSliceInformer
	nodes    coreinformers.NodeInformer
	// What is in force: address to node address.
	routes map[netip.Addr]netip.Addr
}

func (r *router) run(ctx context.Context, changed <-chan struct{}) {
	r.routes = map[netip.Addr]netip.Addr{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			// Changes come in bursts.
			time.Sleep(50 * time.Millisecond)
			r.update(ctx)
		}
	}
}

func (r *router) update(ctx context.Context) {
	wanted := map[netip.Addr]netip.Addr{}
	services, _ := r.services.Lister().List(labels.Everything())
	for _, service := range services {
		if service.Spec.ExternalTrafficPolicy != v1.ServiceExternalTrafficPolicyLocal {
			continue
		}
		for _, ingress := range service.Status.LoadBalancer.Ingress {
			address, err := netip.ParseAddr(ingress.IP)
			if err != nil {
				continue
			}
			if via, found := r.nodeWithEndpoint(service, family(address)); found {
				wanted[address] = via
			}
		}
	}
	for address, via := range wanted {
		if r.routes[address] != via && ip(ctx, address, "route", "replace", address.String(), "via", via.String()) {
			r.routes[address] = via
		}
	}
	for address := range r.routes {
		if _, found := wanted[address]; !found && ip(ctx, address, "route", "delete", address.String()) {
			delete(r.routes, address)
		}
	}
}

// nodeWithEndpoint returns the address of the first node, by name, that has a ready endpoint of the Service.
func (r *router) nodeWithEndpoint(service *v1.Service, of v1.IPFamily) (netip.Addr, bool) {
	selector := labels.SelectorFromSet(labels.Set{discovery.LabelServiceName: service.Name})
	all, _ := r.slices.Lister().EndpointSlices(service.Namespace).List(selector)
	var names []string
	for _, slice := range all {
		if string(slice.AddressType) != string(of) {
			continue
		}
		for _, endpoint := range slice.Endpoints {
			if endpoint.NodeName != nil && endpoint.Conditions.Ready != nil && *endpoint.Conditions.Ready {
				names = append(names, *endpoint.NodeName)
			}
		}
	}
	slices.Sort(names)
	for _, name := range names {
		node, err := r.nodes.Lister().Get(name)
		if err != nil {
			continue
		}
		for _, candidate := range node.Status.Addresses {
			address, err := netip.ParseAddr(candidate.Address)
			if err == nil && candidate.Type == v1.NodeInternalIP && family(address) == of {
				return address, true
			}
		}
	}
	return netip.Addr{}, false
}

func ip(ctx context.Context, address netip.Addr, arguments ...string) bool {
	flag := "-4"
	if address.Is6() {
		flag = "-6"
	}
	output, err := exec.CommandContext(ctx, "ip", append([]string{flag}, arguments...)...).CombinedOutput()
	if err != nil {
		klog.Errorf("ip %s: %v: %s", strings.Join(arguments, " "), err, output)
	}
	return err == nil
}
