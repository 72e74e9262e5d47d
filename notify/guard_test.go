package notify

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"
)

// addresses are those of every class that may not be connected to.
var addresses = map[string][]string{
	"unspecified":    {"0.0.0.0", "0.1.2.3", "::"},
	"loopback":       {"127.0.0.1", "127.255.255.254", "::1"},
	"private":        {"10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd12:3456::1", "fec0::1"},
	"link-local":     {"169.254.0.1", "fe80::1", "fe80::1%eth0", "febf::1"},
	"metadata":       {"169.254.169.254", "169.254.170.2", "fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16"},
	"CGNAT":          {"100.64.0.1", "100.127.255.255"},
	"multicast":      {"224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1"},
	"broadcast":      {"255.255.255.255", "240.0.0.1"},
	"protocols":      {"192.0.0.8", "192.88.99.1", "2001::1", "2001:10::1"},
	"documentation":  {"192.0.2.1", "198.51.100.7", "203.0.113.9", "2001:db8::1", "3fff::1"},
	"benchmarks":     {"198.18.0.1", "198.19.255.255"},
	"IPv4-mapped":    {"::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe"},
	"NAT64":          {"64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1"},
	"6to4":           {"2002:7f00:1::", "2002:a00:1::1", "2002:a9fe:a9fe::"},
	"compatible":     {"::127.0.0.1", "::10.0.0.1"},
	"not given out":  {"100::1", "4000::1", "5f00::1", "1::"},
	"IPv4-mapped %z": {"::ffff:127.0.0.1%lo"},
}

var public = []string{
	"8.8.8.8", "1.1.1.1", "172.15.255.255", "172.32.0.1", "100.63.255.255", "100.128.0.1", "169.253.1.1", "192.0.1.1", "198.17.1.1", "223.255.255.255",
	"2600::1", "2a00:1450::1", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1",
}

func TestF44_GuardByClass(t *testing.T) {
	t.Parallel()
	for class, list := range addresses {
		for _, text := range list {
			addr := netip.MustParseAddr(text)
			err := guard{}.check(addr)
			if _, ok := errors.AsType[*BlockedError](err); !ok {
				t.Errorf("%s: %s is let through: %v", class, text, err)
			}
			network := "tcp6"
			if addr.Is4() {
				network = "tcp4"
			}
			if err := (guard{}).control(t.Context(), network, netip.AddrPortFrom(addr, 443).String(), nil); err == nil {
				t.Errorf("%s: %s may be dialled", class, text)
			}
		}
	}
	for _, text := range public {
		if err := (guard{}).check(netip.MustParseAddr(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if err := (guard{plain: true}).check(netip.MustParseAddr(text)); err == nil {
			t.Errorf("%s gets what is not encrypted", text)
		}
	}
	for _, what := range []struct{ network, address string }{
		{"udp4", "8.8.8.8:53"}, {"unix", "/run/docker.sock"}, {"tcp4", "localhost:80"}, {"tcp", "8.8.8.8:80"}, {"tcp4", ""},
	} {
		if err := (guard{allow: here}).control(t.Context(), what.network, what.address, nil); err == nil {
			t.Errorf("%v may be dialled", what)
		}
	}
}

func TestGuardAllows(t *testing.T) {
	t.Parallel()
	g := guard{allow: prefixes("10.0.0.0/8", "::1/128", "fd00::/8")}
	for text, want := range map[string]bool{
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "11.1.2.3": true, "::1": true, "fd00::1": true, "fd00::1%eth0": true,
		"127.0.0.1": false, "192.168.0.1": false, "fc00::1": false, "169.254.169.254": false,
		"64:ff9b::a00:1": false, // by a way that was not named
	} {
		if err := g.check(netip.MustParseAddr(text)); (err == nil) != want {
			t.Errorf("%s: %v", text, err)
		}
	}
	g.plain, g.allow = true, append(g.allow, here...)
	for text, want := range map[string]bool{"127.0.0.1": true, "::1": true, "::ffff:127.0.0.1": true, "10.1.2.3": false, "8.8.8.8": false} {
		if err := g.check(netip.MustParseAddr(text)); (err == nil) != want {
			t.Errorf("unencrypted, %s: %v", text, err)
		}
	}
}

// Whatever form an address of IPv4 is written in, it is judged as itself.
func TestGuardOfEveryForm(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v4 := netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "address")))
		b := v4.As4()
		want := special(v4) == ""
		for form, text := range map[string]string{
			"mapped": "::ffff:" + v4.String(), "NAT64": fmt.Sprintf("64:ff9b::%x:%x", int(b[0])<<8|int(b[1]), int(b[2])<<8|int(b[3])),
			"6to4": fmt.Sprintf("2002:%x:%x::1", int(b[0])<<8|int(b[1]), int(b[2])<<8|int(b[3])),
		} {
			if err := (guard{}).check(netip.MustParseAddr(text)); (err == nil) != want {
				t.Fatalf("%s as %s (%s): %v", v4, form, text, err)
			}
		}
		if v4.IsPrivate() || v4.IsLoopback() || v4.IsLinkLocalUnicast() || v4.IsMulticast() || v4.IsUnspecified() {
			if want {
				t.Fatalf("%s is let through", v4)
			}
		}
	})
}

func TestURLThatNamesAnAddress(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{
		"https://169.254.169.254/latest/": "link-local", "https://[::ffff:127.0.0.1]:1/": "this machine", "https://10.0.0.1/": "private",
		"https://[fe80::1%25eth0]/": "link-local", "http://8.8.8.8/": "stay on this machine", "https://[::1]/": "this machine",
		"ftp://8.8.8.8/": "plain http", "https://u:p@8.8.8.8/": "plain http", "https://": "plain http", ":": "plain http",
	} {
		_, err := New(nil, Options{URL: target, Secrets: []string{secret}, Registerer: prometheus.NewRegistry()})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", target, err)
		}
	}
	if _, err := New(nil, Options{URL: "https://8.8.8.8/", Registerer: prometheus.NewRegistry()}); err == nil {
		t.Error("nothing to sign with")
	}
	for _, target := range []string{"https://8.8.8.8/", "https://10.0.0.1/", "https://hooks.example.com/"} {
		_, err := New(nil, Options{URL: target, Secrets: []string{secret}, Allow: prefixes("10.0.0.0/8"), Registerer: prometheus.NewRegistry()})
		if err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}
}

// trap is a service of this machine that must not be reached.
func trap(t *testing.T) (port string, hits *atomic.Int32) {
	t.Helper()
	hits = &atomic.Int32{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{
		Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), ReadHeaderTimeout: time.Second,
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				hits.Add(1)
			}
		},
	}}
	s.Start()
	t.Cleanup(s.Close)
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port, hits
}

// Names, and what the parsers of other programs take for addresses, are judged by
// what they lead to.
func TestF44_NamesThatLeadInside(t *testing.T) {
	port, hits := trap(t)
	for _, name := range []string{"localhost", "inside.test", "0x7f.1", "2130706433", "127.1", "0177.0.0.1", "localhost.", "LOCALHOST"} {
		names.set(strings.ToLower(strings.TrimSuffix(name, ".")), []string{"127.0.0.1"})
		for _, scheme := range []string{"https", "http"} {
			err := to(t, scheme+"://"+name+":"+port+"/x", nil).send(t.Context(), Message{})
			f, ok := errors.AsType[*failure](err)
			if !ok || f.outcome != outcomeBlocked && f.outcome != outcomeUnreachable {
				t.Errorf("%s://%s: %v", scheme, name, err)
			}
			if (name == "inside.test" || name == "localhost") && f.outcome != outcomeBlocked {
				t.Errorf("%s://%s: %s: %v", scheme, name, f.outcome, err)
			}
			if strings.Contains(err.Error(), "/x") {
				t.Errorf("the path is told: %v", err)
			}
		}
	}
	if n := hits.Load(); n != 0 {
		t.Fatalf("%d connections", n)
	}
}

// A name is asked anew for each connection, and what it leads to then is judged.
func TestF44_Rebinding(t *testing.T) {
	port, hits := trap(t)
	outside, err := net.Listen("tcp", "127.0.0.2:"+port)
	if err != nil {
		t.Skipf("there is no second loopback address to listen on: %v", err)
	}
	var good atomic.Int32
	s := &httptest.Server{Listener: outside, Config: &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		good.Add(1)
		w.Header().Set("Connection", "close")
	})}}
	s.Start()
	t.Cleanup(s.Close)

	allow := prefixes("127.0.0.2/32")
	names.set("rebound.test", []string{"127.0.0.2"}, "127.0.0.1")
	sender := to(t, "http://rebound.test:"+port+"/", allow)
	if err := sender.send(t.Context(), Message{}); err != nil || good.Load() != 1 {
		t.Fatalf("the first time: %v, %d", err, good.Load())
	}
	for range 3 {
		f, _ := errors.AsType[*failure](sender.send(t.Context(), Message{}))
		if f == nil || f.outcome != outcomeBlocked {
			t.Fatalf("rebound: %+v", f)
		}
	}
	// Of several addresses in one answer only those let through are tried.
	names.set("both.test", []string{"127.0.0.1", "10.255.255.1", "127.0.0.2"})
	if err := to(t, "http://both.test:"+port+"/", allow).send(t.Context(), Message{}); err != nil || good.Load() != 2 {
		t.Fatalf("several addresses: %v, %d", err, good.Load())
	}
	if n := hits.Load(); n != 0 {
		t.Fatalf("%d connections inside", n)
	}
}

func TestF44_RedirectIsNotFollowed(t *testing.T) {
	port, hits := trap(t)
	for _, code := range []int{301, 302, 303, 307, 308} {
		e := newEndpoint(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://127.0.0.1:"+port+"/latest/meta-data/")
			w.WriteHeader(code)
		})
		f, _ := errors.AsType[*failure](to(t, e.URL, here).send(t.Context(), Message{}))
		if f == nil || f.outcome != outcomeRefused || f.status != code || !strings.Contains(f.Error(), "redirect") {
			t.Errorf("%d: %+v", code, f)
		}
		if n := len(e.requests()); n != 1 {
			t.Errorf("%d: asked %d times", code, n)
		}
	}
	if n := hits.Load(); n != 0 {
		t.Fatalf("%d connections", n)
	}
}

// A proxy would connect in our place.
func TestF44_NoProxy(t *testing.T) {
	port, hits := trap(t)
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		t.Setenv(name, "http://127.0.0.1:"+port)
	}
	names.set("outside.test", []string{"10.9.9.9"})
	f, _ := errors.AsType[*failure](to(t, "https://outside.test/", nil).send(context.WithoutCancel(t.Context()), Message{}))
	if f == nil || f.outcome != outcomeBlocked || hits.Load() != 0 {
		t.Fatalf("%+v, %d connections to the proxy", f, hits.Load())
	}
}
