package console

import (
	"context"
	"encoding/json"
	"errors"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// findingRow is a finding with who accepted it.
type findingRow struct {
	mirror.Finding
	Accepted *mirror.OperatorAction
	Expected amountOrText
	Actual   amountOrText
}

// amountOrText is a value of a finding: an amount where it is one.
type amountOrText struct {
	Amount *amount
	Text   string
}

// valueOf reads a value of a finding. Amounts have a currency and are of balances.
func valueOf(f mirror.Finding, text string) amountOrText {
	switch f.Kind {
	case mirror.DriftBalanceMismatch, mirror.DriftSummaryMismatch, mirror.DriftChainGap, mirror.DriftGrantOutOfBounds:
		if n, err := strconv.ParseInt(text, 10, 64); err == nil && f.Currency != "" {
			a := held(string(f.Scope), n, f.Currency)
			return amountOrText{Amount: &a}
		}
	}
	return amountOrText{Text: text}
}

func (v *view) findingRows(list []mirror.Finding) ([]findingRow, error) {
	ids := make([]string, len(list))
	for i := range list {
		ids[i] = list[i].ID
	}
	accepted, err := v.c.o.Operations.Accepted(v.r.Context(), ids)
	if err != nil {
		return nil, err
	}
	var rows []findingRow
	for _, f := range list {
		r := findingRow{Finding: f, Expected: valueOf(f, f.Expected), Actual: valueOf(f, f.Actual)}
		if a, ok := accepted[f.ID]; ok {
			r.Accepted = &a
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func (v *view) drift() error {
	q := v.r.URL.Query()
	d := struct {
		page
		Closed      bool
		Kind        string
		Kinds       []mirror.DriftKind
		Rows        []findingRow
		Older       string
		Steps       template.HTML
		AnyAccepted bool
	}{page: v.page("Drift", "drift"), Closed: q.Get("show") == "closed", Kind: q.Get("kind"), Steps: steps("CreditmirrorDriftOpen")}
	d.Live = q.Get("before") == ""
	d.Kinds = []mirror.DriftKind{
		mirror.DriftBalanceMismatch, mirror.DriftChainGap, mirror.DriftMissingTransaction, mirror.DriftUnexpectedTransaction, mirror.DriftFieldMismatch,
		mirror.DriftSummaryMismatch, mirror.DriftGrantOutOfBounds, mirror.DriftMissingCustomer, mirror.DriftMissedEvent, mirror.DriftOrphan,
	}
	if d.Kind != "" && !slices.Contains(d.Kinds, mirror.DriftKind(d.Kind)) {
		return wrong("There is no kind %q of findings.", d.Kind)
	}
	f := mirror.FindingList{Accounts: v.only(), Scope: v.scopeOnly(), Kind: mirror.DriftKind(d.Kind), Closed: d.Closed, Limit: listRows + 1}
	var err error
	if f.Before, f.BeforeID, err = v.beforeOf(); err != nil {
		return err
	}
	list, err := v.c.o.Store.FindingList(v.r.Context(), f)
	if err != nil {
		return err
	}
	list, d.Older = shown(v, list, func(f mirror.Finding) (time.Time, string) { return f.FoundAt, f.ID })
	if d.Rows, err = v.findingRows(list); err != nil {
		return err
	}
	return v.show("drift", http.StatusOK, d)
}

// findingOf reads the finding of the address, if the key may see it.
func (v *view) findingOf() (mirror.Finding, error) {
	f, err := v.c.o.Store.FindingByID(v.r.Context(), v.r.PathValue("id"))
	switch {
	case errors.Is(err, mirror.ErrNotFound):
		return f, notFound("There is no finding %s.", v.r.PathValue("id"))
	case err != nil:
		return f, err
	case !v.maySee(f.Account), v.scopeOnly() != "" && f.Scope != v.scopeOnly():
		return f, forbidden("This key may not see that finding.")
	}
	return f, nil
}

// side is one of two values, line by line.
type side struct {
	Name  string
	Lines []sideLine
}

type sideLine struct {
	Text   string
	Differ bool
}

func (v *view) finding() error {
	f, err := v.findingOf()
	if err != nil {
		return err
	}
	rows, err := v.findingRows([]mirror.Finding{f})
	if err != nil {
		return err
	}
	d := struct {
		page
		F        findingRow
		Sides    []side
		Held     string
		HeldWhat string
		Steps    template.HTML
		Actions  []mirror.OperatorAction
		CanSync  bool
		Open     bool
	}{page: v.page(kindText(f.Kind), "drift"), F: rows[0], Steps: steps("CreditmirrorDriftOpen"), CanSync: v.mayAct() && v.c.o.Do.Sync != nil && f.Customer != "", Open: f.RepairedAt.IsZero()}
	d.Sides = compareSides(f.Expected, f.Actual)
	if d.HeldWhat, d.Held, err = v.heldRow(f); err != nil {
		return err
	}
	if d.Actions, err = v.c.o.Operations.Actions(v.r.Context(), mirror.ActionFilter{Object: f.ID}, 20); err != nil {
		return err
	}
	return v.show("finding", http.StatusOK, d)
}

// heldRow is the row that a finding names, as the mirror has it.
func (v *view) heldRow(f mirror.Finding) (what, text string, err error) {
	ctx, raw := v.r.Context(), json.RawMessage(nil)
	switch {
	case f.Object == "" || f.Customer == "":
	case strings.HasPrefix(f.Object, "credgr_"):
		var g mirror.CreditGrant
		g, err = v.c.o.Ledgers.Grant(ctx, f.Account, f.Object)
		what, raw = "the grant", g.Raw
	case f.Scope == mirror.ScopeCredits:
		var t mirror.CreditTransaction
		t, err = v.c.o.Ledgers.CreditTransaction(ctx, f.Account, f.Object)
		what, raw = "the transaction", t.Raw
	case strings.HasPrefix(f.Object, "cbtxn_"):
		var t mirror.BalanceTransaction
		t, err = v.c.o.Ledgers.BalanceTransaction(ctx, f.Account, f.Customer, f.Object)
		what, raw = "the transaction", t.Raw
	}
	if errors.Is(err, mirror.ErrNotFound) {
		return "", "", nil
	}
	if err != nil || len(raw) == 0 {
		return "", "", err
	}
	return what, pretty(raw), nil
}

// pretty indents JSON; what is none stays as it is.
func pretty(raw []byte) string {
	var value any
	if json.Unmarshal(raw, &value) != nil {
		return string(raw)
	}
	out, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return string(raw)
	}
	return string(out)
}

// compareSides puts two values beside each other and marks the lines that differ.
func compareSides(expected, actual string) []side {
	lines := func(text string) []string { return strings.Split(pretty([]byte(text)), "\n") }
	e, a := lines(expected), lines(actual)
	in := func(list []string, line string) bool {
		line = strings.TrimSuffix(line, ",")
		return slices.ContainsFunc(list, func(other string) bool { return strings.TrimSuffix(other, ",") == line })
	}
	var left, right []sideLine
	for _, l := range e {
		left = append(left, sideLine{l, !in(a, l)})
	}
	for _, l := range a {
		right = append(right, sideLine{l, !in(e, l)})
	}
	return []side{{"Expected: what Stripe or the ledger's own rules say", left}, {"Actual: what was found here", right}}
}

func (v *view) judge(kind mirror.ActionKind) error {
	f, err := v.findingOf()
	if err != nil {
		return err
	}
	reason, err := v.reason(kind == mirror.ActionAccept)
	if err != nil {
		return err
	}
	if !f.RepairedAt.IsZero() {
		return wrong("The finding is closed already: there is nothing to accept.")
	}
	err = v.act(mirror.OperatorAction{Account: f.Account, Customer: f.Customer, Object: f.ID, Reason: reason, Action: kind},
		func(context.Context) (int64, string, error) { return 1, "", nil })
	if err != nil {
		return err
	}
	done := "Accepted: it stays open and counted until the mirror equals Stripe, and is no longer shown as new."
	if kind == mirror.ActionWithdraw {
		done = "Not accepted any more."
	}
	return v.back("/drift/"+f.ID, done)
}
