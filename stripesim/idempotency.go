package stripesim

import (
	"crypto/sha256"
	"slices"
	"strings"
	"sync"
	"time"
)

// idemKeep is how long a reply can be replayed.
const idemKeep = 24 * time.Hour

// idemEntry is a request that came with an idempotency key, and its reply once
// there is one.
type idemEntry struct {
	key   string
	print [sha256.Size]byte
	at    time.Time
	reply *reply // nil while in flight
}

// idemStore holds one account's idempotency keys.
type idemStore struct {
	mu      sync.Mutex
	entries map[string]*idemEntry
	byAge   []*idemEntry
}

// fingerprint identifies what a request asks for. The order of parameters does
// not count.
func fingerprint(method, path, query, body string) [sha256.Size]byte {
	pairs := strings.Split(query+"&"+body, "&")
	slices.Sort(pairs)
	return sha256.Sum256([]byte(method + " " + path + "\n" + strings.Join(pairs, "&")))
}

// begin claims a key. It returns the stored reply of an earlier request, or the
// entry that the caller must end with keep or forget.
func (st *idemStore) begin(key string, print [sha256.Size]byte, now time.Time) (*idemEntry, *reply, *apiError) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for len(st.byAge) > 0 && now.Sub(st.byAge[0].at) > idemKeep {
		old := st.byAge[0]
		st.byAge = st.byAge[1:]
		if st.entries[old.key] == old && old.reply != nil {
			delete(st.entries, old.key)
		}
	}
	if e := st.entries[key]; e != nil {
		switch {
		case e.print != print:
			return nil, nil, errIdempotency(key)
		case e.reply == nil:
			return nil, nil, errKeyInUse(key)
		}
		return nil, e.reply, nil
	}
	e := &idemEntry{key: key, print: print, at: now}
	st.entries[key] = e
	st.byAge = append(st.byAge, e)
	return e, nil, nil
}

func (st *idemStore) keep(e *idemEntry, r *reply) {
	st.mu.Lock()
	defer st.mu.Unlock()
	e.reply = r
}

// forget lets the next request with the key run as if this one had not been.
func (st *idemStore) forget(e *idemEntry) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.entries[e.key] == e {
		delete(st.entries, e.key)
	}
}
