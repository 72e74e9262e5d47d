package doors

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

func request(remote, host string, header ...string) *http.Request {
	r := &http.Request{RemoteAddr: remote, Host: host, Header: http.Header{}}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

func TestCaller(t *testing.T) {
	t.Parallel()
	proxies := Proxies{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	const xff = "X-Forwarded-For"
	for _, c := range []struct {
		name string
		r    *http.Request
		want string
	}{
		{"no proxy", request("192.0.2.1:5", "", xff, "203.0.113.9"), "192.0.2.1"},
		{"a proxy", request("10.0.0.1:5", "", xff, "203.0.113.9"), "203.0.113.9"},
		{"a proxy in IPv6", request("[fd00::1]:5", "", xff, "2001:db8::5"), "2001:db8::5"},
		{"a mapped proxy", request("[::ffff:10.0.0.1]:5", "", xff, "203.0.113.9"), "203.0.113.9"},
		{"what the caller wrote before", request("10.0.0.1:5", "", xff, "1.1.1.1, 203.0.113.9"), "203.0.113.9"},
		{"two proxies", request("10.0.0.1:5", "", xff, "1.1.1.1, 203.0.113.9, 10.9.9.9"), "203.0.113.9"},
		{"two headers", request("10.0.0.1:5", "", xff, "203.0.113.9", xff, "10.9.9.9"), "203.0.113.9"},
		{"with a port", request("10.0.0.1:5", "", xff, "203.0.113.9:77"), "203.0.113.9"},
		{"brackets", request("10.0.0.1:5", "", xff, "[2001:db8::5]:77"), "2001:db8::5"},
		{"no header", request("10.0.0.1:5", ""), "10.0.0.1"},
		{"all proxies", request("10.0.0.1:5", "", xff, "10.2.2.2"), "10.2.2.2"},
		{"no address", request("10.0.0.1:5", "", xff, "203.0.113.9, unknown"), "10.0.0.1"},
		{"a line break", request("10.0.0.1:5", "", xff, "203.0.113.9\r\nlevel=error"), "10.0.0.1"},
		{"a zone", request("10.0.0.1:5", "", xff, "fe80::1%evil\x1b[31m"), "fe80::1"},
		{"very many", request("10.0.0.1:5", "", xff, "203.0.113.9"+strings.Repeat(",10.0.0.2", 1e5)), "10.0.0.2"},
		{"no connection", request("@", ""), ""},
	} {
		if got := proxies.Caller(c.r); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestLocal(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		r    *http.Request
		want bool
	}{
		{request("127.0.0.1:1", "localhost:8081"), true},
		{request("[::1]:1", "[::1]:8081"), true},
		{request("127.0.0.1:1", "evil.example"), false},
		{request("192.0.2.1:1", "localhost"), false},
		{request("127.0.0.1:1", "localhost", "X-Forwarded-For", "203.0.113.9"), false},
		{request("127.0.0.1:1", "localhost", "Forwarded", ""), false},
		{request("127.0.0.1:1", "localhost", "Via", "1.1 nginx"), false},
		{request("127.0.0.1:1", "localhost", "X-Real-IP", "203.0.113.9"), false},
	} {
		if got := Local(c.r); got != c.want {
			t.Errorf("%s %s %v: %t", c.r.RemoteAddr, c.r.Host, c.r.Header, got)
		}
	}
	for host, want := range map[string]bool{"10.1.2.3:9090": true, "[fd00::1]": true, "localhost": true, "evil.example": false, "": false, "10.1.2.3.evil": false} {
		if NamesAddress(host) != want {
			t.Errorf("%q: %t", host, !want)
		}
	}
}

func FuzzCaller(f *testing.F) {
	for _, s := range []string{"203.0.113.9", "1.1.1.1, 10.0.0.1", "[::1]:5,", "fe80::1%x", "unknown", ",,,"} {
		f.Add(s)
	}
	proxies := Proxies{netip.MustParsePrefix("10.0.0.0/8")}
	f.Fuzz(func(t *testing.T, header string) {
		got := proxies.Caller(request("10.0.0.1:5", "", "X-Forwarded-For", header))
		addr, err := netip.ParseAddr(got)
		if err != nil || addr.Zone() != "" {
			t.Fatalf("%q is no address", got)
		}
		if untrusted := proxies.Caller(request("192.0.2.1:5", "", "X-Forwarded-For", header)); untrusted != "192.0.2.1" {
			t.Fatalf("a caller that is no proxy was believed: %q", untrusted)
		}
	})
}
