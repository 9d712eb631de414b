// Command hbone is one end of Istio's own HBONE, for tests of the other end: a server that serves CONNECT for the
// application beside it, or a client that joins its standard input and output to a stream.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	"istio.io/istio/pkg/hbone"
)

var (
	certificate = flag.String("certificate", "", "PEM file of the own certificate")
	key         = flag.String("key", "", "PEM file of its key")
	root        = flag.String("root", "", "PEM file of the root that peers are verified by")
	expect      = flag.String("expect", "", "the peer's SPIFFE ID (client)")
	listen      = flag.String("listen", "", "address to serve on")
	proxy       = flag.String("proxy", "", "address of the tunnel port to call")
	to          = flag.String("to", "", "address and port to ask for (client)")
)

func main() {
	flag.Parse()
	run := client
	if *listen != "" {
		run = server
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func files() (*tls.Config, *x509.CertPool, error) {
	own, err := tls.LoadX509KeyPair(*certificate, *key)
	if err != nil {
		return nil, nil, err
	}
	pem, err := os.ReadFile(*root)
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, nil, errors.New("no certificate in " + *root)
	}
	return &tls.Config{Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS13}, pool, nil
}

// Serves CONNECT, and says on standard output who has called for what.
func server() error {
	config, pool, err := files()
	if err != nil {
		return err
	}
	config.ClientCAs, config.ClientAuth = pool, tls.RequireAndVerifyClientCert
	config.NextProtos = []string{"h2"}
	serving := hbone.NewServer()
	serving.TLSConfig = config
	serving.Protocols.SetHTTP2(true)
	inner := serving.Handler
	serving.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Printf("%s %s by %s from %s\n", r.Method, r.Host, r.TLS.PeerCertificates[0].URIs[0], r.RemoteAddr)
		inner.ServeHTTP(w, r)
	})
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	return serving.ServeTLS(listener, "", "")
}

// Joins standard input and output to a stream.
func client() error {
	config, pool, err := files()
	if err != nil {
		return err
	}
	// A SPIFFE ID is no host name: verified below, by the same root.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(state tls.ConnectionState) error {
		leaf, between := state.PeerCertificates[0], x509.NewCertPool()
		for _, one := range state.PeerCertificates[1:] {
			between.AddCert(one)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between}); err != nil {
			return err
		}
		if len(leaf.URIs) != 1 || leaf.URIs[0].String() != *expect {
			return fmt.Errorf("the peer is %v", leaf.URIs)
		}
		return nil
	}
	conn, err := hbone.NewDialer(hbone.Config{ProxyAddress: *proxy, TLS: config}).Dial("tcp", *to)
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(conn, os.Stdin)
	}()
	_, err = io.Copy(os.Stdout, conn)
	return err
}
