package console

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// letterFilter reads which dead letters are meant.
func (v *view) letterFilter(get func(string) string) (mirror.LetterFilter, error) {
	f := mirror.LetterFilter{Accounts: v.only(), Class: get("class"), Customer: strings.TrimSpace(get("customer")), Scope: mirror.Scope(get("scope"))}
	if only := v.scopeOnly(); only != "" {
		f.Scope = only
	}
	if name := get("account"); name != "" {
		account, err := accountOf(name)
		if err != nil {
			return f, err
		}
		if !v.maySee(account) {
			return f, forbidden("This key may not see the account %s.", name)
		}
		f.Accounts = []string{account}
	}
	return f, nil
}

// letterQuery writes it back into an address.
func letterQuery(f mirror.LetterFilter, account string, more ...string) string {
	q := url.Values{}
	for _, p := range [][2]string{{"class", f.Class}, {"customer", f.Customer}, {"scope", string(f.Scope)}, {"account", account}} {
		if p[1] != "" {
			q.Set(p[0], p[1])
		}
	}
	for i := 0; i+1 < len(more); i += 2 {
		q.Set(more[i], more[i+1])
	}
	return q.Encode()
}

// letterGroup is a group with its address.
type letterGroup struct {
	mirror.LetterGroup
	Href string
}

func (v *view) dead() error {
	q := v.r.URL.Query()
	f, err := v.letterFilter(q.Get)
	if err != nil {
		return err
	}
	d := struct {
		page
		Filter   mirror.LetterFilter
		Account  string
		Accounts []string
		Narrow   bool
		Groups   []letterGroup
		Rows     []mirror.DeadLetter
		Count    int64
		Next     string
		Retry    string
		Drop     string
		Steps    template.HTML
		CanRetry bool
	}{
		page: v.page("Dead letters", "dead"), Filter: f, Account: q.Get("account"), Steps: steps("CreditmirrorDeadLetters"),
		Narrow: f.Class != "" || f.Customer != "" || q.Get("list") != "", CanRetry: v.c.o.Do.Retry != nil,
	}
	if d.Accounts, err = v.accounts(); err != nil {
		return err
	}
	ctx, store := v.r.Context(), v.c.o.Store
	if !d.Narrow {
		// Reasons are counted over all letters, which takes its time where there are many.
		name := fmt.Sprintf("letters %s %q %q", v.figureScope(), f.Accounts, f.Scope)
		groups, _, err := getFew(ctx, v.c.memo, name, 5*time.Second, func(ctx context.Context) ([]mirror.LetterGroup, error) { return store.LetterGroups(ctx, f, 100) })
		switch {
		case errors.Is(err, errPending):
			d.Pending = true
		case err != nil:
			return err
		}
		for _, g := range groups {
			of := f
			of.Class, of.Scope = g.Class, g.Scope
			d.Count += g.Count
			d.Groups = append(d.Groups, letterGroup{g, "/dead?" + letterQuery(of, d.Account, "list", "1")})
		}
		return v.show("dead", http.StatusOK, d)
	}
	if d.Count, err = store.CountLetters(ctx, f); err != nil {
		return err
	}
	if d.Rows, err = store.FindLetters(ctx, f, q.Get("after"), listRows+1); err != nil {
		return err
	}
	if len(d.Rows) > listRows {
		d.Rows = d.Rows[:listRows]
		d.Next = "/dead?" + letterQuery(f, d.Account, "list", "1", "after", d.Rows[listRows-1].ID)
	}
	d.Retry = "/dead/confirm?" + letterQuery(f, d.Account, "do", "retry")
	d.Drop = "/dead/confirm?" + letterQuery(f, d.Account, "do", "drop")
	return v.show("dead", http.StatusOK, d)
}

// letterOf reads a letter, if the key may see it.
func (v *view) letterOf(id string) (mirror.DeadLetter, error) {
	l, err := v.c.o.Store.DeadLetter(v.r.Context(), id)
	switch {
	case errors.Is(err, mirror.ErrNotFound):
		return l, notFound("There is no dead letter %s. A sync of its customer that succeeded has removed it, or somebody dropped it.", id)
	case err != nil:
		return l, err
	case !v.maySee(l.Target.Account), v.scopeOnly() != "" && l.Target.Scope != v.scopeOnly():
		return l, forbidden("This key may not see that dead letter.")
	}
	return l, nil
}

func (v *view) letter() error {
	l, err := v.letterOf(v.r.PathValue("id"))
	if err != nil {
		return err
	}
	d := struct {
		page
		L        mirror.DeadLetter
		Customer bool
		Payload  int
		Steps    template.HTML
		Actions  []mirror.OperatorAction
		CanRetry bool
	}{page: v.page("Dead letter", "dead"), L: l, Customer: l.Target.Scope == mirror.ScopeBalance || l.Target.Scope == mirror.ScopeCredits, Payload: len(l.Payload), Steps: steps("CreditmirrorDeadLetters"), CanRetry: v.c.o.Do.Retry != nil}
	if d.Actions, err = v.c.o.Operations.Actions(v.r.Context(), mirror.ActionFilter{Object: l.ID}, 20); err != nil {
		return err
	}
	return v.show("letter", http.StatusOK, d)
}

// letterBatch is how many letters one press retries or drops; more take another press, so
// that no request runs for minutes.
const letterBatch = 1000

func (v *view) confirmDead() error {
	q := v.r.URL.Query()
	if !v.mayAct() {
		return forbidden("This key may read but not act.")
	}
	f, err := v.letterFilter(q.Get)
	if err != nil {
		return err
	}
	do := q.Get("do")
	if do != "retry" && do != "drop" {
		return wrong("Choose retry or drop.")
	}
	d := struct {
		page
		Do, ID     string
		Filter     mirror.LetterFilter
		Account    string
		Count      int64
		Batch      int64
		Some       []mirror.DeadLetter
		Unreadable bool
	}{page: v.page(map[string]string{"retry": "Try dead letters again", "drop": "Drop dead letters"}[do], "dead"), Do: do, ID: q.Get("id"), Filter: f, Account: q.Get("account")}
	if d.ID != "" {
		l, err := v.letterOf(d.ID)
		if err != nil {
			return err
		}
		d.Count, d.Some = 1, []mirror.DeadLetter{l}
	} else {
		if d.Count, err = v.c.o.Store.CountLetters(v.r.Context(), f); err != nil {
			return err
		}
		if d.Some, err = v.c.o.Store.FindLetters(v.r.Context(), f, "", 5); err != nil {
			return err
		}
	}
	d.Batch = min(d.Count, letterBatch)
	d.Unreadable = slices.ContainsFunc(d.Some, func(l mirror.DeadLetter) bool { return l.Target.Scope == "" })
	return v.show("confirm", http.StatusOK, d)
}

func (v *view) actDead(kind mirror.ActionKind) error {
	form := v.r.PostForm
	f, err := v.letterFilter(form.Get)
	if err != nil {
		return err
	}
	reason, err := v.reason(true)
	if err != nil {
		return err
	}
	if kind == mirror.ActionRetry && v.c.o.Do.Retry == nil {
		return wrong("This process cannot reach the queue. Use creditmirror dead retry where serve runs.")
	}
	id := form.Get("id")
	record := mirror.OperatorAction{Reason: reason, Action: kind, Object: id}
	var letters []mirror.DeadLetter
	switch {
	case id != "":
		l, err := v.letterOf(id)
		if err != nil {
			return err
		}
		letters = []mirror.DeadLetter{l}
		if record.Account = l.Target.Account; l.Target.Scope == mirror.ScopeBalance || l.Target.Scope == mirror.ScopeCredits {
			record.Customer = l.Target.ID
		}
	default:
		if letters, err = v.c.o.Store.FindLetters(v.r.Context(), f, "", letterBatch); err != nil {
			return err
		}
		// What was counted is what is done: nothing beside it slips in.
		asked, err := strconv.ParseInt(form.Get("count"), 10, 64)
		if err != nil || asked <= 0 {
			return wrong("The number of letters is missing: press the button on the page that counts them.")
		}
		if int64(len(letters)) > asked {
			letters = letters[:asked]
		}
		record.Customer = f.Customer
		if len(f.Accounts) == 1 {
			record.Account = f.Accounts[0]
		}
	}
	var done, left int64
	err = v.act(record, func(ctx context.Context) (int64, string, error) {
		detail := f.Class
		for batch := range slices.Chunk(letters, 200) {
			ids := make([]string, len(batch))
			for i := range batch {
				ids[i] = batch[i].ID
			}
			n, more, err := v.doLetters(ctx, kind, ids)
			done += n
			left += more
			if err != nil {
				return done, detail, err
			}
		}
		return done, detail, nil
	})
	if err != nil {
		return err
	}
	text := plural(done, "dead letter") + " dropped."
	if kind == mirror.ActionRetry {
		text = plural(done, "dead letter") + " tried again: their customers are marked, and each letter goes when its sync succeeds."
		if left > 0 {
			text += " " + count(left) + " cannot be read by this version either."
		}
	}
	return v.back("/dead", text)
}

func (v *view) doLetters(ctx context.Context, kind mirror.ActionKind, ids []string) (done, left int64, err error) {
	if kind == mirror.ActionRetry {
		results, err := v.c.o.Do.Retry(ctx, ids)
		for _, r := range results {
			if r.Left {
				left++
			} else {
				done++
			}
		}
		return done, left, err
	}
	for _, id := range ids {
		switch err := v.c.o.Store.DropDeadLetter(ctx, id); {
		case errors.Is(err, mirror.ErrNotFound): // a sync was faster
		case err != nil:
			return done, 0, err
		default:
			done++
		}
	}
	return done, 0, nil
}
