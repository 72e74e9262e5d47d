package console

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

func (v *view) writes() error {
	q := v.r.URL.Query()
	d := struct {
		page
		Tab                     string
		Key, Customer, Outcome  string
		Writes                  []mirror.APIWrite
		Actions                 []mirror.OperatorAction
		Older                   string
		CanSeeActions, Credited bool
	}{page: v.page("Writes", "writes"), Tab: q.Get("tab"), Key: q.Get("key"), Customer: strings.TrimSpace(q.Get("customer")), Outcome: q.Get("outcome")}
	if v.scopeOnly() != "" {
		return forbidden("The record is of both ledgers, and this key may see one of them.")
	}
	at, id, err := v.beforeOf()
	if err != nil {
		return err
	}
	if d.Tab == "actions" {
		list, err := v.c.o.Operations.Actions(v.r.Context(), mirror.ActionFilter{Accounts: v.only(), Actor: d.Key, Customer: d.Customer, Before: at, BeforeID: id}, listRows+1)
		if err != nil {
			return err
		}
		list, d.Older = shown(v, list, func(a mirror.OperatorAction) (time.Time, string) { return a.Created, a.ID })
		d.Actions = list
		return v.show("writes", http.StatusOK, d)
	}
	known := []string{"", string(mirror.APIDone), string(mirror.APINotDone), string(mirror.APIUnknown), string(mirror.APIRefused)}
	if !slices.Contains(known, d.Outcome) {
		return wrong("There is no outcome %q.", d.Outcome)
	}
	list, err := v.c.o.Store.NewestAPIWrites(v.r.Context(), v.only(), mirror.APIWriteFilter{Key: d.Key, Customer: d.Customer, Outcome: mirror.APIOutcome(d.Outcome)},
		mirror.APIWrite{Created: at, ID: id}, listRows+1)
	if err != nil {
		return err
	}
	list, d.Older = shown(v, list, func(w mirror.APIWrite) (time.Time, string) { return w.Created, w.ID })
	d.Writes = list
	return v.show("writes", http.StatusOK, d)
}
