package mirrortest

import "fmt"

// series counts from 0, in the words of each database.
const (
	sqliteSeries   = `WITH RECURSIVE n(i) AS (SELECT %d UNION ALL SELECT i+1 FROM n WHERE i < %d) `
	postgresSeries = `WITH n(i) AS (SELECT generate_series(%d::bigint, %d::bigint)) `
)

// FillTrue makes a true mirror by bulk SQL, in which every column agrees with its JSON:
// customers of 20 balance transactions, every tenth row with a credit transaction
// beside it. exec runs a statement, in PostgreSQL with the mirror's schema on its path.
func FillTrue(exec func(statement string), postgres bool, rows int) {
	series, pad, object := sqliteSeries, `printf('%%012d', %s)`, `json_object(%s)`
	created, no, yes, cast, now := `strftime('%Y-%m-%dT%H:%M:%S.000000Z', 1700000000+i, 'unixepoch')`, `0`, `1`, ``, `'2026-01-01T00:00:00.000000Z'`
	live := `json('false')`
	if postgres {
		series, pad, object = postgresSeries, `lpad((%s)::text, 12, '0')`, `jsonb_build_object(%s)`
		created, no, yes, cast, now = `to_timestamp(1700000000+i)`, `false`, `true`, `::jsonb`, `now()`
		live = no
	}
	id := func(prefix, n string) string { return `'` + prefix + `' || ` + fmt.Sprintf(pad, n) }
	// stripe is an object as Stripe sends it: what all have, and more.
	stripe := func(kind, id, more string) string {
		return fmt.Sprintf(object, `'id', `+id+`, 'object', '`+kind+`', 'created', 1700000000+i, 'livemode', `+live+`, `+more)
	}
	const chunk = 200_000
	insert := func(count int, into, values string) {
		for from := 0; from < count; from += chunk {
			exec(fmt.Sprintf(series, from, min(from+chunk, count)-1) + `INSERT INTO ` + into + ` SELECT '', ` + values + `, ` + now + ` FROM n`)
		}
	}
	customer, everyone, grant := id("cus_", "i/20"), id("cus_", "i"), id("credgr_", "i")
	metadata := fmt.Sprintf(object, `'ticket', '4711'`)
	insert(rows, `customer_balance_transactions (account, customer, id, currency, amount, ending_balance, type, description,
 metadata, created, livemode, chain_position, raw, digest, synced_at)`, customer+`, `+id("cbtxn_", "i")+`, 'eur', -100, -100*(i%20+1),
 'adjustment', 'goodwill', '{"ticket":"4711"}'`+cast+`, `+created+`, `+no+`, i%20+1, `+stripe("customer_balance_transaction", id("cbtxn_", "i"),
		`'amount', -100, 'credit_note', NULL, 'currency', 'eur', 'customer', `+customer+`, 'description', 'goodwill', 'ending_balance', -100*(i%20+1), `+
			`'invoice', NULL, 'metadata', `+metadata+`, 'type', 'adjustment', 'checkout_session', NULL`)+`, '0123456789abcdef0123456789abcdef'`)
	insert(rows/20, `customers (account, id, balance, currency, invoice_credit_balance, created, livemode, deleted, raw, digest, synced_at)`,
		everyone+`, -2000, 'eur', '{"eur":2000}'`+cast+`, `+created+`, `+no+`, `+no+`, `+stripe("customer", everyone,
			`'balance', -2000, 'currency', 'eur', 'invoice_credit_balance', `+fmt.Sprintf(object, `'eur', 2000`)+`, 'test_clock', NULL`)+`, ''`)
	insert(rows/20, `customer_balances (account, customer, currency, balance, synced_at)`, everyone+`, 'eur', -2000`)
	for _, scope := range []string{"balance", "credits"} {
		insert(rows/20, `sync_state (account, customer, scope, epoch, applied_epoch, history_complete, synced_at)`, everyone+`, '`+scope+`', 1, 1, `+yes)
	}
	money := func(value string) string {
		return fmt.Sprintf(object, `'monetary', `+fmt.Sprintf(object, `'currency', 'eur', 'value', `+value)+`, 'type', 'monetary'`)
	}
	scope := fmt.Sprintf(object, `'scope', `+fmt.Sprintf(object, `'price_type', 'metered'`))
	insert(rows/20, `credit_grants (account, id, customer, name, category, amount_type, amount, currency, applicability_config, priority,
 effective_at, created, updated, livemode, metadata, raw, digest, synced_at)`, grant+`, `+everyone+`, 'welcome', 'paid', 'monetary', 1000, 'eur',
 '{"scope":{"price_type":"metered"}}'`+cast+`, 50, `+created+`, `+created+`, `+created+`, `+no+`, '{}'`+cast+`, `+stripe("billing.credit_grant", grant,
		`'customer', `+everyone+`, 'name', 'welcome', 'category', 'paid', 'amount', `+money("1000")+`, 'applicability_config', `+scope+
			`, 'priority', 50, 'effective_at', 1700000000+i, 'expires_at', NULL, 'voided_at', NULL, 'updated', 1700000000+i, 'metadata', `+
			fmt.Sprintf(object, ``)+`, 'test_clock', NULL`)+`, ''`)
	for _, side := range []struct{ name, other, kind, id, amount, value, cause string }{
		{"credit", "debit", "credits_granted", "cbtxn_c", "1000", "1000", "credits_application_invoice_voided"},
		{"debit", "credit", "credits_expired", "cbtxn_d", "-400", "400", "credits_applied"},
	} {
		row := id(side.id, "i")
		insert(rows/20, `credit_balance_transactions (account, customer, id, "grant", type, `+side.name+`_type, currency, amount, effective_at,
 created, livemode, raw, digest, synced_at)`, everyone+`, `+row+`, `+grant+`, '`+side.name+`', '`+side.kind+`', 'eur', `+side.amount+`, `+created+`, `+created+`,
 `+no+`, `+stripe("billing.credit_balance_transaction", row, `'credit_grant', `+grant+`, 'type', '`+side.name+`', 'effective_at', 1700000000+i,
 'test_clock', NULL, '`+side.other+`', NULL, '`+side.name+`', `+fmt.Sprintf(object, `'type', '`+side.kind+`', '`+side.cause+`', NULL, 'amount', `+money(side.value)))+`, ''`)
	}
	insert(rows/20, `credit_balance_summaries (account, customer, currency, available_balance, ledger_balance, synced_at)`, everyone+`, 'eur', 600, 600`)
	if postgres {
		exec(`ANALYZE`)
	} else {
		exec(`PRAGMA wal_checkpoint(TRUNCATE)`)
	}
}
