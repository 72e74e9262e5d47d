package verify

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/creditmirror/creditmirror/mirror"
)

// contradiction is a column that does not say what Stripe's JSON says.
type contradiction struct{ column, json, held string }

func (c contradiction) String() string {
	return "its JSON has " + c.column + " " + c.json + ", the column " + c.held
}

// texts lists contradictions as one cause.
func texts(list []contradiction) string {
	parts := make([]string, len(list))
	for i, c := range list {
		parts[i] = c.String()
	}
	return strings.Join(parts, "; ")
}

// differ notes where a column differs from the JSON. What the JSON does not have
// is not compared.
func differ(list []contradiction, column, said, held string) []contradiction {
	if said == "" || said == held {
		return list
	}
	return append(list, contradiction{column, said, held})
}

func differNumber(list []contradiction, column, said string, held int64) []contradiction {
	if n, err := strconv.ParseInt(said, 10, 64); said == "" || err == nil && n == held {
		return list
	}
	return append(list, contradiction{column, said, strconv.FormatInt(held, 10)})
}

// number is what the JSON says of a column, or the column where it agrees.
func number(list []contradiction, column string, held int64) int64 {
	for _, c := range list {
		if n, err := strconv.ParseInt(c.json, 10, 64); c.column == column && err == nil {
			return n
		}
	}
	return held
}

// transactionJSON compares a balance transaction with its JSON in one pass.
func transactionJSON(r *mirror.AuditTransaction) []contradiction {
	if r.Raw == "" {
		return nil
	}
	var list []contradiction
	for name, said := range members(r.Raw) {
		switch name {
		case "amount":
			list = differNumber(list, name, said, r.Amount)
		case "ending_balance":
			list = differNumber(list, name, said, r.EndingBalance)
		case "currency":
			list = differ(list, name, said, r.Currency)
		case "customer":
			list = differ(list, name, said, r.Customer)
		case "id":
			list = differ(list, name, said, r.ID)
		case "created":
			list = differNumber(list, name, said, r.Created.Unix())
		}
	}
	return list
}

func creditJSON(r *mirror.AuditCredit) []contradiction {
	if r.Raw == "" {
		return nil
	}
	var list []contradiction
	for _, side := range []string{"credit", "debit"} {
		money := path(r.Raw, side, "amount", "monetary")
		if money == "" {
			continue
		}
		value := member(money, "value")
		if side == "debit" && value != "" && value != "0" {
			value = strings.TrimPrefix("-"+value, "--")
		}
		list = differNumber(list, "amount", value, r.Amount)
		list = differ(list, "currency", member(money, "currency"), r.Currency)
	}
	list = differ(list, "grant", member(r.Raw, "credit_grant"), r.Grant)
	return differ(list, "id", member(r.Raw, "id"), r.ID)
}

func grantJSON(g *mirror.AuditGrant) []contradiction {
	if g.Raw == "" {
		return nil
	}
	var list []contradiction
	if money := path(g.Raw, "amount", "monetary"); money != "" {
		list = differNumber(list, "amount", member(money, "value"), g.Amount)
		list = differ(list, "currency", member(money, "currency"), g.Currency)
	}
	list = differ(list, "customer", member(g.Raw, "customer"), g.Customer)
	return differ(list, "id", member(g.Raw, "id"), g.ID)
}

func customerJSON(c *mirror.AuditCustomer, credit map[string]int64) []contradiction {
	if c.Raw == "" {
		return nil
	}
	var list []contradiction
	list = differNumber(list, "balance", member(c.Raw, "balance"), c.Balance)
	list = differ(list, "currency", member(c.Raw, "currency"), c.Currency)
	if text := member(c.Raw, "invoice_credit_balance"); text != "" {
		said, err := creditBalance(text)
		if err != nil || !maps.Equal(said, credit) {
			list = append(list, contradiction{"invoice_credit_balance", text, creditText(credit)})
		}
	}
	return list
}

// creditBalance reads an invoice_credit_balance.
func creditBalance(text string) (map[string]int64, error) {
	if text == "" {
		return nil, nil
	}
	var m map[string]int64
	err := json.Unmarshal([]byte(text), &m)
	return m, err
}

func creditText(m map[string]int64) string {
	parts := make([]string, 0, len(m))
	for _, currency := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, strconv.Quote(currency)+":"+strconv.FormatInt(m[currency], 10))
	}
	return "{" + strings.Join(parts, ",") + "}"
}
