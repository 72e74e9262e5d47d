package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/reconcile"
)

const (
	readyInterval = 2 * time.Second
	readyTimeout  = 2 * time.Second
	// readyAfter is how many checks in a row must say another thing than before until
	// it counts: a reply that is late once takes no process out of service, and one that
	// comes now and then puts none back.
	readyAfter = 2
	// readyStale is the age at which the last look is not believed any more.
	readyStale = 15 * time.Second
)

// Readiness is the body of /readyz.
type Readiness struct {
	Ready bool          `json:"ready"`
	Roles []config.Role `json:"roles"`
	// Checks per dependency of the roles: "ok" or what is wrong.
	Checks map[string]string `json:"checks"`
	// AccountsRefused does not make the process unready: the others go on.
	AccountsRefused []RefusedStatus `json:"accounts_refused,omitempty"`
	// Limits are what the key may not read; they do not make it unready either.
	Limits []LimitStatus `json:"limits,omitempty"`
}

// look is what one check found of a dependency.
type look struct {
	err error
	// partly: not everything works, but enough to be of service.
	partly bool
	text   string // for /readyz
}

// dependency is what is known of one.
type dependency struct {
	down    bool
	against int // looks in a row that say the opposite
	partly  bool
	text    string
	since   time.Time
}

// readiness remembers what the checks found, so that whoever asks gets one answer.
type readiness struct {
	check func(ctx context.Context) map[string]look
	log   *zap.Logger

	looking sync.Mutex
	mu      sync.Mutex
	at      time.Time
	known   map[string]*dependency
}

func newReadiness(check func(ctx context.Context) map[string]look, log *zap.Logger) *readiness {
	return &readiness{check: check, log: log, known: map[string]*dependency{}}
}

func (r *readiness) loop(ctx context.Context) {
	tick := time.NewTicker(readyInterval)
	defer tick.Stop()
	for {
		r.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look checks once.
func (r *readiness) look(ctx context.Context) {
	r.looking.Lock()
	defer r.looking.Unlock()
	found := r.check(ctx)
	if ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.at = now
	for name, l := range found {
		d, seen := r.known[name]
		if !seen {
			d = &dependency{since: now}
			r.known[name] = d
		}
		if down := l.err != nil && !l.partly; down == d.down {
			d.against = 0
		} else if d.against++; d.against >= readyAfter || !seen || errors.Is(l.err, mirror.ErrDamaged) {
			d.against = 0
			was := now.Sub(d.since).Round(time.Millisecond)
			d.down, d.since = down, now
			if down {
				r.log.Warn("not ready", zap.String("dependency", name), zap.String("detail", l.text), zap.Error(l.err))
			} else {
				r.log.Info("ready again", zap.String("dependency", name), zap.Duration("after", was))
			}
		}
		if partly := l.err != nil && l.partly; partly != d.partly {
			d.partly = partly
			if partly {
				r.log.Warn("dependency is unavailable, at least in part; staying in service", zap.String("dependency", name), zap.String("detail", l.text), zap.Error(l.err))
			}
		}
		switch failed := l.err != nil && !l.partly; {
		case failed == d.down:
			d.text = l.text
		case d.down:
			d.text = "answers again; ready after one more look"
		}
	}
}

// tell returns what is known, looked up again where nobody did for long.
func (r *readiness) tell(ctx context.Context) (ready bool, checks map[string]string) {
	r.mu.Lock()
	fresh := time.Since(r.at) < readyStale
	r.mu.Unlock()
	if !fresh {
		r.look(ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	ready, checks = len(r.known) > 0, map[string]string{}
	for name, d := range r.known {
		checks[name] = d.text
		ready = ready && !d.down
	}
	return ready, checks
}

// looks checks what the roles need of database and Redis: to write, since one that can
// only be read, a replica say, lets every webhook and every sync fail.
func (a *App) looks(ctx context.Context) map[string]look {
	// Side by side, so that one that hangs is not blamed on the other.
	ask := func(what func(context.Context) look) <-chan look {
		answer := make(chan look, 1)
		go func() {
			ctx, cancel := context.WithTimeout(ctx, readyTimeout)
			defer cancel()
			answer <- what(ctx)
		}()
		return answer
	}
	database := ask(func(ctx context.Context) look {
		if err := a.parts.Store.Ping(ctx); err != nil {
			return look{err: err, text: "the mirror's database does not answer or cannot be written"}
		}
		return look{text: "ok"}
	})
	found := map[string]look{}
	if a.has(config.RoleWebhook) || a.has(config.RoleWorker) || a.has(config.RoleReconcile) {
		redis := ask(a.lookAtRedis)
		found["redis"] = <-redis
	}
	found["database"] = <-database
	return found
}

func (a *App) lookAtRedis(ctx context.Context) look {
	inbox := a.inbox.on()
	works := a.has(config.RoleWorker) || a.has(config.RoleReconcile)
	away, err := a.parts.Queue.Away(ctx, a.has(config.RoleWebhook) && !inbox)
	all := a.parts.Queue.Partitions()
	switch {
	case len(away) == 0:
		return look{text: "ok"}
	case len(away) < all:
		return look{err: err, partly: true, text: fmt.Sprintf("%d of %d partitions of the queue are unavailable; the others continue", len(away), all)}
	case !works && inbox:
		return look{err: err, partly: true, text: "redis does not answer or takes no writes; events are accepted into the inbox"}
	}
	return look{err: err, text: "redis does not answer or takes no writes"}
}

// recentLimits are the limits of the mirror, read from the database at most once in
// readyInterval: anybody who reaches the listener may ask.
type recentLimits struct {
	mu   sync.Mutex
	at   time.Time
	list []LimitStatus
}

func (l *recentLimits) read(ctx context.Context, p *Parts) []LimitStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.at) < readyInterval {
		return l.list
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if limits, err := reconcile.AllLimits(ctx, p.Store); err == nil { // else those of before
		l.list = limitStatus(limits, p.ledgers())
	}
	l.at = time.Now()
	return l.list
}

func (a *App) readyz(w http.ResponseWriter, r *http.Request) {
	body := Readiness{Roles: a.o.Roles}
	body.Ready, body.Checks = a.ready.tell(r.Context())
	if a.stopping.Load() {
		body.Ready = false
		body.Checks["process"] = "stopping"
	}
	for _, c := range a.gate.Closures() {
		body.AccountsRefused = append(body.AccountsRefused, RefusedStatus{Account: c.Account, Scope: string(c.Scope), Since: c.Since.UTC(), Reason: c.Reason})
	}
	if body.Checks["database"] == "ok" {
		body.Limits = a.limits.read(r.Context(), a.parts)
	}
	code := http.StatusOK
	if !body.Ready {
		code = http.StatusServiceUnavailable
	}
	writeJSON(w, code, body)
}
