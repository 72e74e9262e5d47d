//go:build unix

package e2e

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// GuessesEnv is how many keys TestGuessesOverTheNetwork tries; `make guesses` sets it.
const GuessesEnv = "CREDITMIRROR_GUESSES"

// TestGuessesOverTheNetwork guesses keys at the API of a real process: none is accepted,
// every answer is one of two, which name no reason, and who has a key is served meanwhile.
func TestGuessesOverTheNetwork(t *testing.T) {
	t.Parallel()
	guesses := scaled(20_000, 4_000)
	if s := os.Getenv(GuessesEnv); s != "" {
		var err error
		if guesses, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	const readKey, writeKey = "r9Kx2mWq7Zt4Vb8Ny3Lp6Hs1", "w4Jd8sQz1Xc7Rf2Gt9Mk5Bn3"
	api := reserve(t)
	w := newWorld(t, embedded, setup{env: map[string]string{
		"CREDITMIRROR_API_ADDR": api, "CREDITMIRROR_API_KEYS": "read:" + readKey + ",write:" + writeKey,
	}})
	n := w.spawn(nil)
	customer := w.stripe.customer()
	w.stripe.credit(customer, 500, "usd")
	w.equal()

	const connections, atOnce = 4, 50
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	var answers sync.Map // what an answer says -> *atomic.Int64
	var left atomic.Int64
	left.Store(int64(guesses))
	// guess is a key that is none, in one of the ways in which it can be near to one.
	guess := func(r *rand.Rand) string {
		key := []byte([]string{readKey, writeKey}[r.IntN(2)])
		at := r.IntN(len(key))
		other := letters[r.IntN(len(letters))]
		for other == key[at] {
			other = letters[r.IntN(len(letters))]
		}
		switch r.IntN(7) {
		case 0: // one letter is another
			key[at] = other
		case 1: // a beginning of it
			key = key[:at]
		case 2: // more than it
			key = append(key, other)
		case 3: // in the other case
			key[0] ^= 0x20
		case 4: // its beginning, and a wrong end
			key[at] = other
			for i := at + 1; i < len(key); i++ {
				key[i] = letters[r.IntN(len(letters))]
			}
		case 5: // both keys
			key = []byte(readKey + "," + writeKey)
		default: // anything
			for i := range key {
				key[i] = letters[r.IntN(len(letters))]
			}
		}
		if s := string(key); s != readKey && s != writeKey {
			return s
		}
		return "none"
	}
	began := time.Now()
	var wg sync.WaitGroup
	for c := range connections {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(17, uint64(c)))
			for left.Load() > 0 {
				conn, err := net.Dial("tcp", api)
				if err != nil {
					t.Error(err)
					return
				}
				in := bufio.NewReader(conn)
				for left.Load() > 0 && err == nil {
					batch := int(min(atOnce, max(0, left.Add(-atOnce)+atOnce)))
					var send strings.Builder
					for range batch {
						key := guess(r)
						header := "Bearer " + key
						if r.IntN(2) == 0 {
							header = "Basic " + base64.StdEncoding.EncodeToString([]byte(key+":"))
						}
						fmt.Fprintf(&send, "GET /v1/customers/%s HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\n\r\n", customer, header)
					}
					_, err = io.WriteString(conn, send.String())
					for i := 0; i < batch && err == nil; i++ {
						var resp *http.Response
						if resp, err = http.ReadResponse(in, nil); err != nil {
							left.Add(int64(batch - i)) // these were not judged
							break
						}
						body, _ := io.ReadAll(resp.Body)
						_ = resp.Body.Close()
						resp.Header.Del("Request-Id")
						resp.Header.Del("Date")
						count, _ := answers.LoadOrStore(fmt.Sprint(resp.StatusCode, " ", resp.Header, " ", string(body)), new(atomic.Int64))
						count.(*atomic.Int64).Add(1)
					}
				}
				_ = conn.Close()
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	served := 0
	for guessing := true; guessing; served++ {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+api+"/v1/customers/"+customer, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth(readKey, "")
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("with the right key: %s", resp.Status)
		}
		select {
		case <-done:
			guessing = false
		case <-time.After(10 * time.Millisecond):
		}
	}
	var total int64
	kinds := 0
	answers.Range(func(key, value any) bool {
		kinds++
		answer, count := key.(string), value.(*atomic.Int64).Load()
		total += count
		t.Logf("%d times %s", count, answer)
		if !strings.HasPrefix(answer, "401 ") && !strings.HasPrefix(answer, "429 ") {
			t.Errorf("a guess was answered: %s", answer)
		}
		return true
	})
	// No key, a wrong key, and a wrong key where there were too many.
	if kinds > 3 || total < int64(guesses) {
		t.Errorf("%d answers of %d kinds to %d guesses", total, kinds, guesses)
	}
	if lines := strings.Count(w.log.String(), "api key refused"); lines > 10+int(time.Since(began).Seconds()) {
		t.Errorf("the log has %d lines about refused keys", lines)
	}
	t.Logf("%d guesses in %v, %d requests served beside them, most memory %d MiB", total, time.Since(began).Round(time.Second), served, n.memory("VmHWM")>>20)
}
