// CoreDNS with the plugins that the test cluster's Corefile names. Its usual main has all plugins, several clouds' libraries
// among them, and takes three times as long to build.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/template"
)

func main() {
	// The order in which they see a query.
	dnsserver.Directives = []string{"health", "ready", "errors", "loadbalance", "kubernetes", "template"}
	coremain.Run()
}
