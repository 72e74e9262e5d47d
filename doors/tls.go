package doors

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
)

// certificateCheck is how often the files are looked at, at most.
const certificateCheck = time.Second

// Certificate is a certificate and its key in two files, which are read again when they
// change. One that cannot be read leaves the last good one in force.
type Certificate struct {
	certFile, keyFile string
	log               *zap.Logger

	mu      sync.Mutex
	held    *tls.Certificate
	stamp   [2]fileStamp
	checked time.Time
}

// fileStamp changes with the file.
type fileStamp struct {
	modified time.Time
	size     int64
}

// LoadCertificate reads the files.
func LoadCertificate(certFile, keyFile string, log *zap.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, log: log}
	if err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

// Config is a server's configuration: TLS 1.2 at least, HTTP/1 alone.
func (c *Certificate) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current(), nil },
	}
}

func (c *Certificate) stamps() (s [2]fileStamp, err error) {
	for i, name := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(name) // follows links: Kubernetes exchanges one
		if err != nil {
			return s, err
		}
		s[i] = fileStamp{info.ModTime(), info.Size()}
	}
	return s, nil
}

func (c *Certificate) load() error {
	stamp, err := c.stamps()
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	c.held, c.stamp, c.checked = &pair, stamp, time.Now()
	return nil
}

// current returns the certificate in force.
func (c *Certificate) current() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) < certificateCheck {
		return c.held
	}
	c.checked = time.Now()
	stamp, err := c.stamps()
	if err == nil && stamp == c.stamp {
		return c.held
	}
	if err == nil {
		err = c.load()
	}
	if err != nil {
		c.log.Warn("could not read the new certificate; keeping the old one", zap.Error(err))
	} else {
		c.log.Info("certificate reloaded")
	}
	return c.held
}
