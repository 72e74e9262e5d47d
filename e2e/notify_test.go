//go:build unix

package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	notifySecret = "notify-secret-of-the-end-to-end-tests"
	notifyToken  = "token-in-the-path-0123456789"
)

// listener is who wants to hear of drift.
type listener struct {
	*httptest.Server
	mu   sync.Mutex
	told []told
	// wrong is what should not have come.
	wrong []string
	// busy is how long an answer takes.
	busy time.Duration
}

type told struct {
	id      string
	finding string
	created int64
	closed  bool
}

func newListener(t *testing.T) *listener {
	t.Helper()
	l := &listener{}
	l.Server = httptest.NewServer(l)
	t.Cleanup(l.Close)
	return l
}

// env is what makes a process send it.
func (l *listener) env() map[string]string {
	return map[string]string{
		"CREDITMIRROR_NOTIFY_URL":    l.URL + "/hooks/" + notifyToken,
		"CREDITMIRROR_NOTIFY_SECRET": notifySecret, "CREDITMIRROR_NOTIFY_ALLOW": "127.0.0.1",
	}
}

func (l *listener) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // killed while it sent
	}
	header := r.Header.Get("Creditmirror-Signature")
	stamp, signature, _ := strings.Cut(strings.TrimPrefix(header, "t="), ",v1=")
	mac := hmac.New(sha256.New, []byte(notifySecret))
	mac.Write([]byte(stamp + "." + string(body)))
	var m struct {
		ID, Type string
		Created  int64
		Finding  struct {
			ID       string
			Kind     string
			Customer string
			ClosedAt *int64 `json:"closed_at"`
		}
	}
	err = json.Unmarshal(body, &m)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil || hex.EncodeToString(mac.Sum(nil)) != signature || m.Finding.ID == "" || !strings.HasPrefix(m.Finding.Customer, "cus_") ||
		(m.Type == "drift.closed") != (m.Finding.ClosedAt != nil) || r.URL.Path != "/hooks/"+notifyToken || r.Method != http.MethodPost {
		l.wrong = append(l.wrong, fmt.Sprintf("%s %s %s: %s (%v)", r.Method, r.URL.Path, header, body, err))
		return
	}
	l.told = append(l.told, told{m.ID, m.Finding.ID, m.Created, m.Type == "drift.closed"})
	if l.busy > 0 {
		l.mu.Unlock()
		select {
		case <-r.Context().Done():
		case <-time.After(l.busy):
		}
		l.mu.Lock()
	}
}

func (l *listener) set(busy time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy = busy
}

func (l *listener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.told)
}

// complete reports whether every finding in the database was notified, opened and
// then closed, in the order of time; doubled is how many came more than once.
func (l *listener) complete(w *world) (doubled int, err error) {
	if n := w.count("SELECT count(*) FROM schema.drift_findings WHERE repaired_at IS NULL OR notified < 2"); n > 0 {
		return 0, fmt.Errorf("%d findings are open or not told", n)
	}
	findings := w.count("SELECT count(*) FROM schema.drift_findings")
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.wrong) > 0 {
		return 0, fmt.Errorf("wrong: %s", l.wrong[0])
	}
	opened, closed, last := map[string]bool{}, map[string]bool{}, int64(0)
	for _, m := range l.told {
		steps := opened
		if m.closed {
			steps = closed
		}
		if steps[m.finding] {
			doubled++
			continue
		}
		steps[m.finding] = true
		switch {
		case m.closed && !opened[m.finding]:
			return 0, fmt.Errorf("%s was closed before it was opened", m.finding)
		case m.created < last-2: // times are of several transactions
			return 0, fmt.Errorf("%s is of %d, after one of %d", m.id, m.created, last)
		}
		last = max(last, m.created)
	}
	if len(opened) != findings || len(closed) != findings {
		return 0, fmt.Errorf("%d opened and %d closed were told of %d findings", len(opened), len(closed), findings)
	}
	return doubled, nil
}

// TestDriftIsToldF03F07I15: what is opened and closed is sent at least once,
// whatever is killed, by one replica at a time, and once where nobody is killed.
func TestDriftIsToldF03F07I15(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		t.Parallel()
		l := newListener(t)
		// No webhook comes, so that every event is a missed one: drift that is opened by
		// the events sweep and closed by the sync that follows.
		w := newWorld(t, b, setup{noEndpoint: true, env: l.env()})
		w.secrets = append(w.secrets, notifySecret, notifyToken) // no log may show them
		customers := make([]string, 6)
		for i := range customers {
			customers[i] = w.stripe.customer()
		}
		drift := func() {
			for _, c := range customers {
				w.stripe.credit(c, 10, "usd")
			}
		}
		nodes := []*node{w.spawn(nil)}
		if b.external { // of two replicas one sends
			nodes = append(nodes, w.spawn(nil))
		}
		w.copied()
		// Events of the seconds about a start or a stop may be of a time in which nobody
		// listened, and are no drift.
		driftUntilTold := func(before int) {
			t.Helper()
			var last time.Time
			eventually(t, 60*time.Second, "one is being told", that(func() bool {
				if l.count() == before && time.Since(last) > time.Second {
					drift()
					last = time.Now()
				}
				return l.count() > before
			}))
		}
		driftUntilTold(0)
		told := func() (doubled int) {
			t.Helper()
			eventually(t, 60*time.Second, "all is told", func() (err error) {
				if l.count() == 0 {
					return fmt.Errorf("nothing is told")
				}
				doubled, err = l.complete(w)
				return err
			})
			return doubled
		}
		if n := told(); n != 0 {
			t.Errorf("%d were told twice, and nobody was killed", n)
		}
		if b.external { // an orderly stop hands over and loses nothing
			l.set(200 * time.Millisecond)
			driftUntilTold(l.count())
			if err := nodes[0].stop(); err != nil {
				t.Errorf("stop: %v", err)
			}
			if n := told(); n != 0 {
				t.Errorf("%d were told twice through an orderly stop", n)
			}
			nodes = nodes[1:]
		}

		l.set(400 * time.Millisecond) // the kill comes while one is being sent, mostly
		kills := 0
		for range 2 {
			driftUntilTold(l.count())
			nodes[0].signal(syscall.SIGKILL)
			kills++
			nodes[0] = nodes[0].respawn(nil)
		}
		l.set(0)
		doubled := told()
		if doubled > kills {
			t.Errorf("%d were told twice after %d kills", doubled, kills)
		}
		w.equal()
		if !strings.Contains(w.log.String(), "notifications switched") {
			t.Error("the log does not tell that drift is told")
		}
		t.Logf("%d told, %d twice, %d kills", l.count(), doubled, kills)
	})
}
