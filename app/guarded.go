package app

import (
	"net/http"

	"github.com/creditmirror/creditmirror/doors"
)

// statusAtOnce is how many answers to /status may be under way: each costs the database
// some reads, and whoever asks needs one.
const statusAtOnce = 2

// atOnce bounds how many requests a handler works on.
func atOnce(n int, h http.Handler) http.Handler {
	slots := make(chan struct{}, n)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
		default:
			w.Header().Set("Retry-After", "1")
			writeJSON(w, http.StatusServiceUnavailable, map[string]string{"error": "too many requests at once"})
			return
		}
		defer func() { <-slots }()
		h.ServeHTTP(w, r)
	})
}

// byAddress passes only requests to an address or to localhost: a page in somebody's
// browser may have its own name resolve to this listener, which asks for no key.
func byAddress(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !doors.NamesAddress(r.Host) {
			writeJSON(w, http.StatusForbidden, map[string]string{"error": "ask by an address, or as localhost"})
			return
		}
		h.ServeHTTP(w, r)
	})
}

// forDebugging passes only requests of programs on this machine (kubectl port-forward
// makes them): a profile of the memory holds the keys and what customers have.
func forDebugging(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !doors.Local(r) {
			http.NotFound(w, r)
			return
		}
		h(w, r)
	})
}
