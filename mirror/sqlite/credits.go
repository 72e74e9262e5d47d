package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

// ApplyCredits commits what a credits sync read.
func (s *Store) ApplyCredits(ctx context.Context, snap mirror.CreditsSnapshot) (mirror.Applied, error) {
	c := &commit{
		target: snap.Target, epoch: snap.Epoch, eventSeq: snap.EventSeq,
		observed: stamp(snap.ObservedAt),
	}
	err := s.commit(ctx, c, func() error {
		held, err := c.heldCredits(snap)
		if err != nil {
			return err
		}
		plan, err := mirror.PlanCredits(snap, held)
		if err != nil {
			return err
		}
		c.events, c.named = plan.AnswersOf(snap.Events), plan.Answers(held)
		c.out.Unanswered = plan.Unanswered
		if plan.Behind {
			c.observed = ""
		}
		if len(c.events) > 0 {
			if err := c.creditsMode(snap); err != nil {
				return err
			}
		}
		return c.writeCredits(plan, held)
	})
	if err != nil {
		return mirror.Applied{}, fmt.Errorf("apply %s, epoch %d: %w", snap.Target, snap.Epoch, err)
	}
	return c.out, nil
}

const (
	heldCreditSpan = `
SELECT id, "grant", currency, amount, created, digest
FROM credit_balance_transactions WHERE account = ?1 AND customer = ?2 AND created BETWEEN ?3 AND ?4`

	// grantSums come in two halves, because the sum of 64-bit numbers may not fit and
	// SQLite would refuse it.
	grantSums = `
SELECT "grant", currency, sum(amount >> 32), sum(amount & 4294967295), count(*)
FROM credit_balance_transactions WHERE account = ?1 AND customer = ?2 GROUP BY "grant", currency`

	heldGrantColumns = `customer, ifnull(amount, 0), currency, updated, voided_at, digest`

	// rowOwners find rows by their ids, of whichever customer.
	rowOwners = `
SELECT id, customer, currency FROM credit_balance_transactions
WHERE account = ?1 AND id IN (SELECT value->>0 FROM json_each(?2))`

	// heldGrantRows may list a grant twice; a UNION would have to sort first.
	heldGrantRows = `
SELECT id, ` + heldGrantColumns + `
FROM credit_grants INDEXED BY credit_grants_customer_list WHERE account = ?1 AND customer = ?2
UNION ALL
SELECT id, ` + heldGrantColumns + ` FROM credit_grants
WHERE account = ?1 AND id IN (SELECT value->>0 FROM json_each(?3))`

	heldSummary = `
SELECT currency, ledger_balance, available_balance FROM credit_balance_summaries WHERE account = ?1 AND customer = ?2`
)

// heldCredits reads what PlanCredits compares the snapshot with.
func (c *commit) heldCredits(snap mirror.CreditsSnapshot) (mirror.CreditsHeld, error) {
	h := mirror.CreditsHeld{
		State: c.was, Sums: map[string]mirror.GrantSum{},
		Grants: map[string]mirror.HeldGrantRow{}, Summary: map[string]mirror.CreditBalance{},
	}
	key := []any{c.target.Account, c.target.ID}
	seen := map[string]bool{} // spans may overlap
	for _, span := range snap.Spans() {
		from, to := bounds(span)
		err := c.each(heldCreditSpan, append(key[:2:2], from, to), func(rows *sql.Rows) error {
			var r mirror.HeldCredit
			err := rows.Scan(&r.ID, &r.Grant, &r.Currency, &r.Amount, timeColumn{&r.Created}, &r.Digest)
			if err == nil && !seen[r.ID] {
				seen[r.ID] = true
				h.Rows = append(h.Rows, r)
			}
			return err
		})
		if err != nil {
			return h, err
		}
	}
	var err error
	if snap.Joined { // a piece needs no sums, and they read the index of the whole history
		sums := map[string]report.Wide{}
		err = c.each(grantSums, key, func(rows *sql.Rows) error {
			var grant, currency string
			var high, low, n int64
			if err := rows.Scan(&grant, &currency, &high, &low, &n); err != nil {
				return err
			}
			sum := h.Sums[grant]
			sum.Currency = currency
			sums[grant] = sums[grant].Plus(report.Halves(high, low))
			sum.Sum, _ = sums[grant].Amount() // the nearest, which no grant explains
			sum.Rows += n
			h.Sums[grant] = sum
			return nil
		})
	}
	if err != nil {
		return h, err
	}
	ids := snap.GrantIDs()
	text, err := idList(ids)
	if err != nil {
		return h, err
	}
	err = c.each(heldGrantRows, append(key[:2:2], text), func(rows *sql.Rows) error {
		var id string
		g, err := scanHeldGrant(func(columns ...any) error { return rows.Scan(append([]any{&id}, columns...)...) })
		h.Grants[id] = g
		return err
	})
	if err != nil {
		return h, err
	}
	if err := c.namedByEvents(snap, &h); err != nil {
		return h, err
	}
	if snap.Whole() {
		h.Stored, err = stored(c, storedCreditSpan, storedCreditByID, snap.WindowSpans(), snap.Listed(), scanStoredCredit)
	} else {
		h.Stored, err = storedOf(c, accusedCredits, snap.Listed(), scanStoredCredit)
	}
	if err != nil {
		return h, err
	}
	query := accusedGrants
	if snap.Whole() || snap.AllGrants {
		query = storedGrants
	}
	if h.StoredGrants, err = storedOf(c, query, ids, scanStoredGrant); err != nil {
		return h, err
	}
	return h, c.each(heldSummary, key, func(rows *sql.Rows) error {
		var currency string
		var b mirror.CreditBalance
		err := rows.Scan(&currency, &b.Ledger, &b.Available)
		h.Summary[currency] = b
		return err
	})
}

// scanHeldGrant scans heldGrantColumns.
func scanHeldGrant(scan func(columns ...any) error) (g mirror.HeldGrantRow, err error) {
	err = scan(&g.Customer, &g.Amount, textColumn{&g.Currency}, timeColumn{&g.Updated}, grantTime{&g.VoidedAt}, &g.Digest)
	return g, err
}

// namedByEvents reads the waiting events that name an object, and the rows that
// they and those of the snapshot name.
func (c *commit) namedByEvents(snap mirror.CreditsSnapshot, h *mirror.CreditsHeld) error {
	if snap.EventSeq > 0 {
		err := c.each(waitingNamed, []any{c.target.Account, c.target.ID, snap.EventSeq}, func(rows *sql.Rows) error {
			var e mirror.EventRef
			err := rows.Scan(&e.ID, timeColumn{&e.Created}, textColumn{&e.Object}, &e.Type, timeColumn{&e.Updated})
			h.Waiting = append(h.Waiting, e)
			return err
		})
		if err != nil {
			return err
		}
	}
	var ids []string
	for _, e := range slices.Concat(h.Waiting, snap.Events) {
		if e.NamesRow() {
			ids = append(ids, e.Object)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	text, err := idList(ids)
	if err != nil {
		return err
	}
	h.Owners = map[string]mirror.RowOwner{}
	return c.each(rowOwners, []any{c.target.Account, text}, func(rows *sql.Rows) error {
		var id string
		var o mirror.RowOwner
		err := rows.Scan(&id, &o.Customer, &o.Currency)
		h.Owners[id] = o
		return err
	})
}

const (
	creditValues = `
INSERT INTO credit_balance_transactions (account, customer, id, "grant", type, credit_type, debit_type, currency,
       amount, invoice, invoice_line_item, effective_at, created, livemode, test_clock, raw, digest, synced_at)
SELECT ?2, ?3, value->>0, value->>1, value->>2, value->>3, value->>4, value->>5,
       value->>6, value->>7, value->>8, value->>9, value->>10, value->>11, value->>12, value->>13, value->>14, ?4
FROM json_each(?1) WHERE true `

	// insertCredits leaves a held row alone: the caller counts what was written.
	insertCredits = creditValues + `
ON CONFLICT DO NOTHING`

	updateCredits = creditValues + `
ON CONFLICT (account, customer, id) DO UPDATE SET credit_type = excluded.credit_type, debit_type = excluded.debit_type,
       invoice = excluded.invoice, invoice_line_item = excluded.invoice_line_item, effective_at = excluded.effective_at,
       test_clock = excluded.test_clock, raw = excluded.raw, digest = excluded.digest, synced_at = excluded.synced_at`

	// restoreCredits writes the columns too that no reply can change.
	restoreCredits = updateCredits + `, "grant" = excluded."grant", type = excluded.type, currency = excluded.currency,
       amount = excluded.amount, created = excluded.created, livemode = excluded.livemode`

	grantValues = `
INSERT INTO credit_grants (account, id, customer, name, category, amount_type, amount, currency, applicability_config,
       priority, effective_at, expires_at, voided_at, created, updated, livemode, test_clock, metadata, raw, digest, synced_at)
SELECT ?2, value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7,
       value->>8, value->>9, value->>10, value->>11, value->>12, value->>13, value->>14, value->>15, value->>16, value->>17, value->>18, ?3
FROM json_each(?1) WHERE true `

	upsertGrants = grantValues + `
ON CONFLICT (account, id) DO UPDATE SET customer = excluded.customer, name = excluded.name, category = excluded.category,
       amount_type = excluded.amount_type, amount = excluded.amount, currency = excluded.currency,
       applicability_config = excluded.applicability_config, priority = excluded.priority,
       effective_at = excluded.effective_at, expires_at = excluded.expires_at, voided_at = excluded.voided_at,
       created = excluded.created, updated = excluded.updated, livemode = excluded.livemode,
       test_clock = excluded.test_clock, metadata = excluded.metadata, raw = excluded.raw,
       digest = excluded.digest, synced_at = excluded.synced_at`

	firstGrants = grantValues + `
ON CONFLICT DO NOTHING
RETURNING id`

	writeClock = `
INSERT INTO test_clocks (account, id, frozen_time, synced_at) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (account, id) DO UPDATE SET frozen_time = excluded.frozen_time, synced_at = excluded.synced_at
       WHERE excluded.frozen_time > frozen_time`

	writeSummary = `
INSERT INTO credit_balance_summaries (account, customer, currency, ledger_balance, available_balance, synced_at)
SELECT ?2, ?3, value->>0, value->>1, value->>2, ?4 FROM json_each(?1) WHERE true
ON CONFLICT (account, customer, currency) DO UPDATE SET ledger_balance = excluded.ledger_balance,
       available_balance = excluded.available_balance, synced_at = excluded.synced_at`
)

// writeCredits writes the plan.
func (c *commit) writeCredits(plan mirror.CreditsPlan, held mirror.CreditsHeld) error {
	account, customer := c.target.Account, c.target.ID
	for _, g := range plan.Grants {
		_, had := held.Grants[g.ID]
		c.changed("credit_grants", customer, g.ID, op(had))
	}
	if _, err := c.inBatches(upsertGrants, grantRows(plan.Grants), account, c.at); err != nil {
		return err
	}
	const table = "credit_balance_transactions"
	for _, r := range plan.Insert {
		c.changed(table, customer, r.ID, "insert")
	}
	n, err := c.inBatches(insertCredits, creditRows(plan.Insert), account, customer, c.at)
	if err != nil {
		return err
	}
	if n != len(plan.Insert) {
		// A row that lies outside the time that was compared, and yet is held.
		return fmt.Errorf("created of a held transaction changed: %w", mirror.ErrLedgerRewritten)
	}
	for _, r := range slices.Concat(plan.Update, plan.Restore) {
		c.changed(table, customer, r.ID, "update")
	}
	if _, err := c.inBatches(updateCredits, creditRows(plan.Update), account, customer, c.at); err != nil {
		return err
	}
	if _, err := c.inBatches(restoreCredits, creditRows(plan.Restore), account, customer, c.at); err != nil {
		return err
	}
	if k := plan.Clock; k.ID != "" {
		if err := c.exec(writeClock, account, k.ID, stamp(k.Frozen), c.at); err != nil {
			return err
		}
	}
	summary := make([][]any, 0, len(plan.Summary))
	for _, currency := range sortedKeys(plan.Summary) {
		b := plan.Summary[currency]
		_, had := held.Summary[currency]
		summary = append(summary, []any{currency, b.Ledger, b.Available})
		c.changed("credit_balance_summaries", customer, currency, op(had))
	}
	if _, err := c.inBatches(writeSummary, summary, account, customer, c.at); err != nil {
		return err
	}
	return c.leave(plan.State, plan.Open, plan.Repaired, plan.Close)
}

// creditsMode finds out whether the target lives in live mode, which the
// references of events do not show.
func (c *commit) creditsMode(snap mirror.CreditsSnapshot) error {
	var known bool
	if c.livemode, known = snap.Livemode(); known {
		return nil
	}
	_, err := c.row(customerMode, []any{c.target.Account, c.target.ID}, &c.livemode)
	return err
}

func creditRows(list []mirror.CreditTransaction) [][]any {
	rows := make([][]any, 0, len(list))
	for _, r := range list {
		rows = append(rows, []any{
			r.ID, r.Grant, plain(r.Type), null(r.CreditType), null(r.DebitType), r.Currency, r.Amount,
			null(r.Invoice), null(r.InvoiceLineItem), stamp(r.EffectiveAt), stamp(r.Created),
			flag(r.Livemode), null(r.TestClock), object(r.Raw), mirror.Digest(r.Raw),
		})
	}
	return rows
}

func grantRows(list []mirror.CreditGrant) [][]any {
	rows := make([][]any, 0, len(list))
	for _, g := range list {
		var amount, priority any
		if g.Currency != "" { // of a type that has no amount, 0 would be a lie
			amount = g.Amount
		}
		if g.Priority >= 0 {
			priority = g.Priority
		}
		rows = append(rows, []any{
			g.ID, g.Customer, null(g.Name), plain(g.Category), plain(g.AmountType), amount, null(g.Currency),
			object(g.ApplicabilityConfig), priority, nullTime(g.EffectiveAt), nullTime(g.ExpiresAt),
			nullTime(g.VoidedAt), stamp(g.Created), stamp(g.Updated), flag(g.Livemode), null(g.TestClock),
			object(g.Metadata), object(g.Raw), mirror.Digest(g.Raw),
		})
	}
	return rows
}

// InsertGrants stores grants that are not held yet and leaves all others alone.
func (s *Store) InsertGrants(ctx context.Context, account string, page []mirror.CreditGrant) (int, error) {
	page, err := mirror.GrantsToInsert(page)
	if err != nil {
		return 0, fmt.Errorf("insert grants of account %q: %w", account, err)
	}
	owner, amount := make(map[string]string, len(page)), make(map[string]int64, len(page))
	for _, g := range page {
		owner[g.ID], amount[g.ID] = g.Customer, g.Amount
	}
	stored := 0
	err = s.w.do(ctx, durable, func(tx *tx) error {
		fresh, err := tx.returnIDs(firstGrants, grantRows(page), account, tx.at)
		if err != nil || len(fresh) == 0 {
			return err
		}
		stored = len(fresh)
		var changes, ledgers [][]any
		for _, id := range fresh {
			changes = append(changes, []any{"credit_grants", owner[id], id, "insert"})
			ledgers = append(ledgers, []any{owner[id], mirror.RankOf(amount[id])})
		}
		if _, err := tx.inBatches(knowLedgers, ledgers, account, tx.at, string(mirror.ScopeCredits)); err != nil {
			return err
		}
		return tx.feed(account, changes)
	})
	if err != nil {
		return 0, fmt.Errorf("insert %d grants of account %q: %w", len(page), account, s.explain(err))
	}
	return stored, nil
}
