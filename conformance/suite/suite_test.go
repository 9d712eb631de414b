// Package suite is the official Gateway API conformance suite, as it is published: nothing is changed or left out.
package suite

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

func TestConformance(t *testing.T) { conformance.RunConformance(t) }
