package console

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/mirror"
)

// hour counts the events of one.
const webhookHours = 24

// recentEvents is how many of the newest events the course is drawn from.
const recentEvents = 5000

func (v *view) webhooks() error {
	d := struct {
		page
		Status         Status
		Known, Whole   bool
		At             time.Time
		Events         []mirror.InboxEvent
		Chart          template.HTML
		Counted        int64
		Since          time.Time
		Refusals       []Refusal
		Verdicts       []Verdict
		VerdictsAt     time.Time
		VerdictProblem string
		CanCheck       bool
		Find           string
	}{page: v.page("Webhooks", "webhooks"), Whole: !v.bound(), CanCheck: v.mayAct() && !v.bound() && v.c.o.Do.Check != nil, Find: v.r.URL.Query().Get("event")}
	if d.Find != "" {
		http.Redirect(v.w, v.r, "/webhooks/"+url.PathEscape(strings.TrimSpace(d.Find)), http.StatusSeeOther)
		return nil
	}
	d.Live = true
	s, at, err := v.status()
	switch {
	case errors.Is(err, errPending):
		d.Pending = true
	case err == nil:
		d.Status, d.At, d.Known = s, at, true
	}
	if d.Whole && v.c.o.Refused != nil {
		if d.Refusals, err = v.c.o.Refused(v.r.Context()); err != nil {
			return err
		}
	}
	events, _, err := getFew(v.r.Context(), v.c.memo, "events "+v.figureScope(), 5*time.Second, func(ctx context.Context) ([]mirror.InboxEvent, error) {
		return v.c.o.Store.NewestEvents(ctx, v.only(), recentEvents)
	})
	switch {
	case errors.Is(err, errPending):
		d.Pending = true
	case err != nil:
		return err
	}
	if len(events) > 0 {
		now := v.c.now().UTC()
		first := now.Add(-webhookHours * time.Hour).Truncate(time.Hour).Add(time.Hour)
		values := make([]int64, webhookHours)
		for _, e := range events {
			if i := int(e.Received.Sub(first) / time.Hour); !e.Received.Before(first) && i < webhookHours {
				values[i]++
				d.Counted++
			}
		}
		d.Since = first
		if len(events) == recentEvents && events[recentEvents-1].Received.After(first) {
			d.Since = events[recentEvents-1].Received
		}
		d.Chart = bars(fmt.Sprintf("Events received per hour of the last %d", webhookHours), values, first.Format("15:04")+" UTC", "now")
		d.Events = events[:min(len(events), 30)]
	}
	if d.Whole {
		v.c.verdict.mu.Lock()
		d.Verdicts, d.VerdictsAt, d.VerdictProblem = v.c.verdict.list, v.c.verdict.at, v.c.verdict.problem
		v.c.verdict.mu.Unlock()
	}
	return v.show("webhooks", http.StatusOK, d)
}

// verdict is what the last check of our endpoints said.
type verdict struct {
	mu      sync.Mutex
	list    []Verdict
	at      time.Time
	problem string
}

func (v *view) checkEndpoints() error {
	switch {
	case v.bound():
		return forbidden("Endpoints belong to all accounts, and this key is limited to some.")
	case v.c.o.Do.Check == nil:
		return wrong("This process has no Stripe key. Use creditmirror endpoint check.")
	}
	var list []Verdict
	err := v.act(mirror.OperatorAction{Action: mirror.ActionCheck}, func(ctx context.Context) (n int64, _ string, err error) {
		list, err = v.c.o.Do.Check(ctx)
		return int64(len(list)), "", err
	})
	v.c.verdict.mu.Lock()
	v.c.verdict.list, v.c.verdict.at, v.c.verdict.problem = list, v.c.now(), ""
	if err != nil {
		v.c.verdict.problem = "Stripe did not answer, or the key has no access to Webhook Endpoints: " + err.Error()
	}
	v.c.verdict.mu.Unlock()
	return v.back("/webhooks", "Stripe was asked; see below.")
}

// wayStep is one step of an event's way.
type wayStep struct {
	Text, Class string
	At          time.Time
	Detail      string
}

func (v *view) event() error {
	accounts, err := v.accounts()
	if err != nil {
		return err
	}
	id := v.r.PathValue("id")
	e, err := v.c.o.Store.InboxEvent(v.r.Context(), accounts, id)
	if errors.Is(err, mirror.ErrNotFound) {
		return notFound("The inbox does not hold %s. Answered events are kept for 35 days; where Redis keeps what it acknowledged (CREDITMIRROR_INBOX), events go to it alone. An event that moves no credit is not recorded.", id)
	}
	if err != nil {
		return err
	}
	d := struct {
		page
		E    mirror.InboxEvent
		Way  []wayStep
		Took string
	}{page: v.page(e.Type, "webhooks"), E: e}
	d.Live = e.Pending
	d.Way = append(d.Way, wayStep{"It happened at Stripe", "good", e.Created, ""},
		wayStep{"It was received and recorded in the inbox", "good", e.Received, "after " + age(max(e.Received.Sub(e.Created), 0))})
	var states []mirror.LedgerState
	if e.Customer != "" {
		if states, err = v.c.o.Store.LedgerStates(v.r.Context(), e.Account, e.Customer); err != nil {
			return err
		}
		if v.c.o.Queued != nil && e.Pending {
			waiting, err := v.c.o.Queued(v.r.Context(), v.targets(e.Account, e.Customer))
			text := "It is missing from the queue: it is enqueued again within a minute"
			class := "warn"
			if err == nil && slices.Contains(waiting, true) {
				text, class = "A sync of its customer waits or is running", "good"
			}
			d.Way = append(d.Way, wayStep{text, class, time.Time{}, ""})
		}
	}
	switch {
	case e.Pending:
		d.Way = append(d.Way, wayStep{"No sync has answered it yet", "warn", time.Time{}, "If this lasts: Dead letters, Sweeps, and the runbook CreditmirrorQueueOld"})
	case !e.Applied.IsZero():
		d.Way = append(d.Way, wayStep{"A sync read the customer from Stripe and committed it", "good", e.Applied, "after " + age(max(e.Applied.Sub(e.Received), 0))})
		d.Took = age(max(e.Applied.Sub(e.Created), 0))
	default:
		d.Way = append(d.Way, wayStep{"Nothing had to be read for it", "good", time.Time{}, ""})
	}
	for _, s := range states {
		if v.mayRead(access.Ledger(s.Scope)) && !s.ObservedAt.IsZero() && !s.ObservedAt.Before(e.Received) {
			d.Way = append(d.Way, wayStep{ledgerNames[string(s.Scope)] + " is as fresh as", "good", s.ObservedAt, ""})
		}
	}
	return v.show("event", http.StatusOK, d)
}
