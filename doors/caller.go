package doors

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// proxyHeaders are what a proxy adds to a request that it hands on.
var proxyHeaders = []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"}

// ThroughProxy reports whether a request says of itself that a proxy handed it on.
func ThroughProxy(h http.Header) bool {
	return slices.ContainsFunc(proxyHeaders, func(name string) bool { return h[name] != nil })
}

// FromLoopback looks at the connection alone: what a header says about where a request
// comes from is the caller's own word.
func FromLoopback(remoteAddr string) bool {
	addr, err := netip.ParseAddrPort(remoteAddr)
	return err == nil && addr.Addr().Unmap().IsLoopback()
}

// NamesLoopback reports whether a request is for this machine by a name that is only its
// own. A page in a browser here could otherwise read everything, by having its own name
// resolve to this machine.
func NamesLoopback(host string) bool {
	addr, name := hostAddr(host)
	return strings.EqualFold(name, "localhost") || addr.Unmap().IsLoopback()
}

// NamesAddress reports whether a request is for localhost or for an address, and not for
// a name that somebody else may have resolve to it.
func NamesAddress(host string) bool {
	addr, name := hostAddr(host)
	return strings.EqualFold(name, "localhost") || addr.IsValid()
}

func hostAddr(host string) (netip.Addr, string) {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	addr, err := netip.ParseAddr(strings.Trim(name, "[]"))
	if err != nil {
		addr = netip.Addr{}
	}
	return addr, name
}

// Local reports whether a request comes from a program on this machine, and is meant for
// it: not from a web page that has its own name resolve to this machine, nor through a
// proxy that runs on it.
func Local(r *http.Request) bool {
	return FromLoopback(r.RemoteAddr) && NamesLoopback(r.Host) && !ThroughProxy(r.Header)
}

// Proxies are networks whose X-Forwarded-For is believed.
type Proxies []netip.Prefix

// Trusts reports whether an address is one of a proxy.
func (p Proxies) Trusts(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	return addr.IsValid() && slices.ContainsFunc(p, func(n netip.Prefix) bool { return n.Contains(addr) })
}

// maxHops bounds how many entries of X-Forwarded-For are read, from the last.
const maxHops = 32

// Caller returns the address that a request comes from, for logs and records: of the
// connection, or where that is a proxy, the last one in X-Forwarded-For that is none. What
// stands before it is the caller's own word. It is empty where none is known.
func (p Proxies) Caller(r *http.Request) string {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	caller := remote.Addr().Unmap()
	if !p.Trusts(caller) {
		return caller.String()
	}
	headers := r.Header["X-Forwarded-For"]
	for i, n := len(headers)-1, 0; i >= 0; i-- {
		rest := headers[i]
		for n < maxHops {
			n++
			at := strings.LastIndexByte(rest, ',')
			hop, ok := parseHop(rest[at+1:])
			if !ok {
				return caller.String() // nothing before it can be believed
			}
			caller = hop
			if !p.Trusts(caller) {
				return caller.String()
			}
			if at < 0 {
				break
			}
			rest = rest[:at]
		}
	}
	return caller.String()
}

// parseHop reads an address with or without a port.
func parseHop(s string) (netip.Addr, bool) {
	s = strings.TrimSpace(s)
	if addr, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return addr.Unmap().WithZone(""), true
	}
	if addr, err := netip.ParseAddrPort(s); err == nil {
		return addr.Addr().Unmap().WithZone(""), true
	}
	return netip.Addr{}, false
}
