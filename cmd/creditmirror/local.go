package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"

	"github.com/creditmirror/creditmirror/config"
)

// localServe is how the ops listener of a serve on this host is asked.
type localServe struct {
	client *http.Client
	base   string // scheme and address
}

// reachServe returns it. With TLS the listener must show the very certificate that the
// configuration names: by this address it has no name to be checked by.
func reachServe(cfg config.Config) (localServe, error) {
	// Never through a proxy, and with nothing left open behind.
	transport := &http.Transport{DisableKeepAlives: true}
	s := localServe{client: &http.Client{Transport: transport}, base: "http://" + localAddr(cfg.OpsAddr)}
	if !cfg.OpsTLS.On() {
		return s, nil
	}
	pair, err := tls.LoadX509KeyPair(cfg.OpsTLS.Cert, cfg.OpsTLS.Key)
	if err != nil {
		return s, fmt.Errorf("%s: %w", config.VarOpsTLSCert, err)
	}
	s.base = "https://" + localAddr(cfg.OpsAddr)
	transport.TLSClientConfig = &tls.Config{
		MinVersion: tls.VersionTLS12,
		// #nosec G402 -- what is checked instead is stronger: it is one certificate that is taken
		InsecureSkipVerify: true,
		VerifyConnection: func(c tls.ConnectionState) error { // of a resumed session too
			if len(c.PeerCertificates) == 0 || !bytes.Equal(c.PeerCertificates[0].Raw, pair.Certificate[0]) {
				return errors.New("it shows another certificate than the configuration names")
			}
			return nil
		},
	}
	return s, nil
}
