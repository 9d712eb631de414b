package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/controllers/service"
	controllersmetrics "k8s.io/component-base/metrics/prometheus/controllers"
)

// Addresses that a Service asks for, one per family, joined by commas. `spec.loadBalancerIP` is the older way to say it.
const addressesAnnotation = "load-balancer.test/addresses"

// A range of addresses: the first half is given to who asks for nothing, the second only on request.
type pool struct{ first, last, lastOnRequest netip.Addr }

var pools = map[v1.IPFamily]pool{
	v1.IPv4Protocol: {netip.MustParseAddr("10.10.1.1"), netip.MustParseAddr("10.10.1.127"), netip.MustParseAddr("10.10.1.254")},
	v1.IPv6Protocol: {netip.MustParseAddr("fd00:10:1::1"), netip.MustParseAddr("fd00:10:1::7f"), netip.MustParseAddr("fd00:10:1::fe")},
}

// The cluster's "cloud": it has load balancers and nothing else. Kubernetes' own service controller does the rest.
type cloud struct {
	mutex sync.Mutex
	// Which Service has an address.
	taken map[netip.Addr]string
}

func newLoadBalancerCommand() *cobra.Command {
	var kubeconfig string
	command := &cobra.Command{
		Use:   "load-balancer",
		Short: "Gives Services of type LoadBalancer addresses, and routes these on the cluster's host",
		RunE: func(command *cobra.Command, _ []string) error {
			return runLoadBalancer(command.Context(), kubeconfig)
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "How to reach the API server")
	return command
}

func runLoadBalancer(ctx context.Context, kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	services := factory.Core().V1().Services()
	provider := &cloud{taken: map[netip.Addr]string{}}
	if err := provider.remember(ctx, client); err != nil {
		return err
	}
	controller, err := service.New(provider, client, services, factory.Core().V1().Nodes(), "test", utilfeature.DefaultFeatureGate)
	if err != nil {
		return err
	}
	routes := &router{services: services, slices: factory.Discovery().V1().EndpointSlices(), nodes: factory.Core().V1().Nodes()}
	changed := make(chan struct{}, 1)
	for _, informer := range []cache.SharedIndexInformer{services.Informer(), routes.slices.Informer(), routes.nodes.Informer()} {
		wake := func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { wake() },
			UpdateFunc: func(any, any) { wake() },
			DeleteFunc: func(any) { wake() },
		}); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	go routes.run(ctx, changed)
	controller.Run(ctx, 2, controllersmetrics.NewControllerManagerMetrics("load-balancer"))
	return errors.New("the service controller has ended")
}

// remember takes note of what was given before this process began.
func (c *cloud) remember(ctx context.Context, client kubernetes.Interface) error {
	all, err := client.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, service := range all.Items {
		for _, ingress := range service.Status.LoadBalancer.Ingress {
			if address, err := netip.ParseAddr(ingress.IP); err == nil {
				c.taken[address] = name(&service)
			}
		}
	}
	return nil
}

func name(service *v1.Service) string { return service.Namespace + "/" + service.Name }

// requested returns the addresses that a Service asks for.
func requested(service *v1.Service) ([]netip.Addr, error) {
	text := service.Annotations[addressesAnnotation]
	if text == "" {
		text = service.Spec.LoadBalancerIP
	}
	var addresses []netip.Addr
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' }) {
		address, err := netip.ParseAddr(word)
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, address)
	}
	return addresses, nil
}

func family(address netip.Addr) v1.IPFamily {
	if address.Is4() {
		return v1.IPv4Protocol
	}
	return v1.IPv6Protocol
}

// choose finds an address of a family for a Service: what it asks for, what it has, or the next free one.
func (c *cloud) choose(service *v1.Service, of v1.IPFamily, wanted []netip.Addr) (netip.Addr, error) {
	pool := pools[of]
	if i := slices.IndexFunc(wanted, func(a netip.Addr) bool { return family(a) == of }); i >= 0 {
		address := wanted[i]
		if address.Less(pool.first) || pool.lastOnRequest.Less(address) {
			return address, fmt.Errorf("%s is not in %s to %s", address, pool.first, pool.lastOnRequest)
		}
		if owner, found := c.taken[address]; found && owner != name(service) {
			return address, fmt.Errorf("%s belongs to Service %s", address, owner)
		}
		return address, nil
	}
	for address, owner := range c.taken {
		if owner == name(service) && family(address) == of {
			return address, nil
		}
	}
	for address := pool.first; !pool.last.Less(address); address = address.Next() {
		if _, found := c.taken[address]; !found {
			return address, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("every address from %s to %s is taken", pool.first, pool.last)
}

func (c *cloud) EnsureLoadBalancer(_ context.Context, _ string, service *v1.Service, _ []*v1.Node) (*v1.LoadBalancerStatus, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	wanted, err := requested(service)
	if err != nil {
		return nil, err
	}
	var chosen []netip.Addr
	for _, of := range service.Spec.IPFamilies {
		address, err := c.choose(service, of, wanted)
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, address)
	}
	c.release(service)
	status := &v1.LoadBalancerStatus{}
	for _, address := range chosen {
		c.taken[address] = name(service)
		status.Ingress = append(status.Ingress, v1.LoadBalancerIngress{IP: address.String()})
	}
	return status, nil
}

// release forgets a Service's addresses. The caller holds the mutex.
func (c *cloud) release(service *v1.Service) {
	for address, owner := range c.taken {
		if owner == name(service) {
			delete(c.taken, address)
		}
	}
}

func (c *cloud) EnsureLoadBalancerDeleted(_ context.Context, _ string, service *v1.Service) error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.release(service)
	return nil
}

func (c *cloud) GetLoadBalancer(_ context.Context, _ string, service *v1.Service) (*v1.LoadBalancerStatus, bool, error) {
	status := service.Status.LoadBalancer
	return &status, len(status.Ingress) > 0, nil
}

func (c *cloud) GetLoadBalancerName(_ context.Context, _ string, service *v1.Service) string {
	return cloudprovider.DefaultLoadBalancerName(service)
}

func (c *cloud) UpdateLoadBalancer(context.Context, string, *v1.Service, []*v1.Node) error {
	return nil
}

func (c *cloud) LoadBalancer() (cloudprovider.LoadBalancer, bool)                  { return c, true }
func (c *cloud) Initialize(cloudprovider.ControllerClientBuilder, <-chan struct{}) {}
func (c *cloud) Instances() (cloudprovider.Instances, bool)                        { return nil, false }
func (c *cloud) InstancesV2() (cloudprovider.InstancesV2, bool)                    { return nil, false }
func (c *cloud) Zones() (cloudprovider.Zones, bool)                                { return nil, false }
func (c *cloud) Clusters() (cloudprovider.Clusters, bool)                          { return nil, false }
func (c *cloud) Routes() (cloudprovider.Routes, bool)                              { return nil, false }
func (c *cloud) ProviderName() string                                              { return "test" }
func (c *cloud) HasClusterID() bool                                                { return true }
