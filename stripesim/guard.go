package stripesim

import (
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/creditmirror/creditmirror/doors"
)

// guarded keeps web pages out: the simulator asks for no password, and a page in the
// browser of whoever runs it must neither drive nor read it. What changes something must
// not come from another origin; on a loopback address only names of this machine are
// answered, so that no page can have its own name resolve to it; and a POST to the control
// API takes JSON alone, which no form of a page can send. (Other methods a browser asks
// about first, and is refused.)
func guarded(h http.Handler) http.Handler {
	return http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case onLoopback(r) && !doors.NamesLoopback(r.Host):
			http.Error(w, "On a loopback address the simulator answers to localhost and loopback addresses alone.", http.StatusForbidden)
		case r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/_sim/") && r.ContentLength != 0 && !isJSON(r.Header):
			http.Error(w, "The control API takes JSON: set Content-Type to application/json.", http.StatusUnsupportedMediaType)
		default:
			h.ServeHTTP(w, r)
		}
	}))
}

// onLoopback reports whether the connection came to an address that only this machine
// has. A request without a connection, of a test, did not.
func onLoopback(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	local, err := netip.ParseAddrPort(addr.String())
	return err == nil && local.Addr().Unmap().IsLoopback()
}

func isJSON(h http.Header) bool {
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && kind == "application/json"
}
