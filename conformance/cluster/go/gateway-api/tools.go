//go:build tools

// Package tools keeps the Gateway API in go.mod: its CRDs are files of that module.
package tools

import _ "sigs.k8s.io/gateway-api/apis/v1"
