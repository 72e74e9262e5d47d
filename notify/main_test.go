package notify

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/internal/pgtest"
)

// authority signs the certificates that this process trusts, as an operator's own
// would be: by SSL_CERT_FILE.
var authority, stranger issuer

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	if !slices.ContainsFunc(os.Args, func(a string) bool { return strings.HasPrefix(a, "-test.parallel") }) {
		_ = flag.Set("test.parallel", "8") // most of the time tests wait for the next look
	}
	dir, err := os.MkdirTemp("", "creditmirror-notify-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	authority, stranger = newIssuer(), newIssuer()
	file := filepath.Join(dir, "ca.pem")
	pemText := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.der})
	if err := os.WriteFile(file, pemText, 0o600); err != nil {
		panic(err)
	}
	os.Setenv("SSL_CERT_FILE", file)
	names.start()
	code := pgtest.Main(m)
	names.stop()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	return code
}

// issuer makes certificates.
type issuer struct {
	key *ecdsa.PrivateKey
	der []byte
}

func newIssuer() issuer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		DNSNames: []string{"hooks.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return issuer{key, der}
}

// server starts an HTTPS server whose certificate is the issuer's.
func (i issuer) server(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{i.der}, PrivateKey: i.key}}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // refused certificates are the test
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// names is the name server that this process asks: what a name stands for is up
// to the test, answer by answer.
var names nameServer

type nameServer struct {
	conn net.PacketConn
	done chan struct{}

	mu      sync.Mutex
	answers map[string][]netip.Addr // of IPv4, all of them in one answer
	asked   map[string]int
	// then replaces answers after the first question.
	then map[string][]netip.Addr
}

func (n *nameServer) start() {
	var err error
	if n.conn, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
		panic(err)
	}
	n.done = make(chan struct{})
	n.answers, n.then, n.asked = map[string][]netip.Addr{}, map[string][]netip.Addr{}, map[string]int{}
	go n.serve()
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", n.conn.LocalAddr().String())
	}}
}

func (n *nameServer) stop() {
	n.conn.Close()
	<-n.done
}

// set says what a name stands for, and what from the second question on.
func (n *nameServer) set(name string, first []string, later ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	parse := func(texts []string) (list []netip.Addr) {
		for _, t := range texts {
			list = append(list, netip.MustParseAddr(t))
		}
		return list
	}
	n.answers[name], n.asked[name] = parse(first), 0
	delete(n.then, name)
	if later != nil {
		n.then[name] = parse(later)
	}
}

func (n *nameServer) serve() {
	defer close(n.done)
	buf := make([]byte, 1500)
	for {
		size, from, err := n.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if reply := n.answer(buf[:size]); reply != nil {
			_, _ = n.conn.WriteTo(reply, from)
		}
	}
}

// answer makes the reply to one question (RFC 1035): A records, or none.
func (n *nameServer) answer(q []byte) []byte {
	if len(q) < 12 {
		return nil
	}
	var labels []string
	at := 12
	for at < len(q) && q[at] != 0 {
		size := int(q[at])
		labels = append(labels, string(q[at+1:at+1+size]))
		at += 1 + size
	}
	end := at + 5
	kind := binary.BigEndian.Uint16(q[at+1:])
	name := strings.ToLower(strings.Join(labels, "."))
	n.mu.Lock()
	list := n.answers[name]
	if later, ok := n.then[name]; ok && n.asked[name] > 0 {
		list = later
	}
	if kind == 1 {
		n.asked[name]++
	} else {
		list = nil
	}
	n.mu.Unlock()
	reply := append([]byte{q[0], q[1], 0x84, 0, 0, 1, 0, byte(len(list)), 0, 0, 0, 0}, q[12:end]...)
	for _, a := range list {
		v4 := a.As4()
		reply = append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
		reply = append(reply, v4[:]...)
	}
	return reply
}

const secret = "a-secret-of-notifications-0123456789"

// endpoint is a receiver that keeps what it got and answers as the test says.
type endpoint struct {
	*httptest.Server
	mu  sync.Mutex
	got []received
	// answer is asked for each request; nil: 200.
	answer http.HandlerFunc
}

type received struct {
	body      []byte
	signature string
	header    http.Header
}

func newEndpoint(t *testing.T, answer http.HandlerFunc) *endpoint {
	t.Helper()
	e := &endpoint{answer: answer}
	e.Server = httptest.NewServer(e)
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	e.mu.Lock()
	e.got = append(e.got, received{body, r.Header.Get(SignatureHeader), r.Header})
	answer := e.answer
	e.mu.Unlock()
	if answer != nil {
		answer(w, r)
	}
}

func (e *endpoint) answers(h http.HandlerFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answer = h
}

func (e *endpoint) requests() []received {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]received(nil), e.got...)
}

// status answers with a status.
func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// here lets webhooks go to this machine.
var here = prefixes("127.0.0.0/8", "::1/128")

// to makes a sender for a URL.
func to(t *testing.T, target string, allow []netip.Prefix) *sender {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	s := newSender(u, guard{allow: allow, plain: u.Scheme == "http"}, []string{secret}, "test")
	t.Cleanup(s.close)
	return s
}

// watched is a Notifier with its log and metrics.
type watched struct {
	*Notifier
	registry *prometheus.Registry
	logs     *observer.ObservedLogs
}

func newNotifier(t *testing.T, store Store, target string) watched {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	w := watched{registry: prometheus.NewRegistry(), logs: logs}
	var err error
	o := Options{URL: target, Registerer: w.registry, Log: zap.New(core)}
	if target != "" {
		o.Secrets, o.Allow = []string{secret}, here
	}
	if w.Notifier, err = New(store, o); err != nil {
		t.Fatal(err)
	}
	return w
}

// metric is a gauge or counter's value, with labels as in outcome="x".
func (w watched) metric(t *testing.T, name, labels string) float64 {
	t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "creditmirror_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			text := ""
			for _, l := range m.GetLabel() {
				text += fmt.Sprintf("%s=%q", l.GetName(), l.GetValue())
			}
			if text == labels {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return -1
}

// eventually waits for a condition that something outside of a bubble brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience.Of(20 * time.Second)); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}
