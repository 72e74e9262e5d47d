package notify

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
)

// guard decides which addresses may be connected to. It is asked for each
// address of each connection, after the name was resolved and before the first
// packet: whatever a name resolves to the next time, it is asked again.
type guard struct {
	// allow are networks that are let through although they are not public.
	allow []netip.Prefix
	// plain reports that what is sent is not encrypted, so that it must not leave
	// this machine.
	plain bool
}

// BlockedError says that an address may not be connected to.
type BlockedError struct {
	Addr netip.Addr
	// Reason says what kind of address it is.
	Reason string
}

func (e *BlockedError) Error() string {
	return fmt.Sprintf("%s is not connected to: %s", e.Addr, e.Reason)
}

// control is the guard as net.Dialer.ControlContext.
func (g guard) control(_ context.Context, network, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil || network != "tcp4" && network != "tcp6" {
		return fmt.Errorf("not connected to: %s is no address of TCP", network)
	}
	return g.check(at.Addr())
}

// check returns a *BlockedError for an address that may not be connected to.
func (g guard) check(addr netip.Addr) error {
	bare := addr.WithZone("").Unmap() // a zone only says through which interface
	if g.plain && !bare.IsLoopback() {
		return &BlockedError{addr, "unencrypted webhooks stay on this machine"}
	}
	reason := special(bare)
	if reason == "" || slices.ContainsFunc(g.allow, func(p netip.Prefix) bool { return p.Contains(bare) }) {
		return nil
	}
	return &BlockedError{addr, reason}
}

// specials are the addresses that are not public, or are somebody's own in spite
// of looking so, from IANA's registries of special purpose. Of IPv6 only what is
// inside of global is looked up; all else is not public.
var specials = []struct {
	reason   string
	networks []netip.Prefix
}{
	{"it is not specified", prefixes("0.0.0.0/8", "::/128")},
	{"it is this machine", prefixes("127.0.0.0/8", "::1/128")},
	{"it is private", prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10")},
	// 169.254.169.254 and fd00:ec2::254 (above) give out credentials of cloud machines.
	{"it is link-local, where clouds keep their metadata", prefixes("169.254.0.0/16", "fe80::/10")},
	{"it is shared by carriers", prefixes("100.64.0.0/10")},
	{"it is multicast", prefixes("224.0.0.0/4", "ff00::/8")},
	// 192.0.0.192 is the metadata of another cloud.
	{"it is reserved for protocols", prefixes("192.0.0.0/24", "192.88.99.0/24", "2001::/23")},
	{"it is for documentation", prefixes("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20")},
	{"it is for benchmarks", prefixes("198.18.0.0/15")},
	{"it is reserved", prefixes("240.0.0.0/4")},
	{"it is a cloud's own service", prefixes("168.63.129.16/32")}, // Azure's, on each machine
}

// global is what of IPv6 is given out.
var global = netip.MustParsePrefix("2000::/3")

// embeddings are the networks of IPv6 whose addresses stand for one of IPv4, and
// the byte that it begins at.
var embeddings = []struct {
	network netip.Prefix
	at      int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, // NAT64
	{netip.MustParsePrefix("2002::/16"), 2},     // 6to4
	{netip.MustParsePrefix("::/96"), 12},        // "IPv4-compatible"
}

// special names what keeps an address from being public; empty for a public one.
func special(addr netip.Addr) string {
	for _, s := range specials {
		if slices.ContainsFunc(s.networks, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return s.reason
		}
	}
	if addr.Is4() {
		return ""
	}
	for _, e := range embeddings {
		if e.network.Contains(addr) {
			bytes := addr.As16()
			return special(netip.AddrFrom4([4]byte(bytes[e.at : e.at+4])))
		}
	}
	if !global.Contains(addr) {
		return "it is not a public address"
	}
	return ""
}

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, t := range texts {
		list[i] = netip.MustParsePrefix(t)
	}
	return list
}

// dialer connects to what the guard lets through.
func (g guard) dialer() *net.Dialer {
	return &net.Dialer{Timeout: dialTimeout, ControlContext: g.control}
}
