//go:build tools

// Package tools keeps the programs that the suite's pods run in go.mod.
package tools

import (
	_ "istio.io/istio/pkg/test/echo/cmd/client"
	_ "istio.io/istio/pkg/test/echo/cmd/server"
	_ "sigs.k8s.io/gateway-api-conformance-images/echo-basic"
)
