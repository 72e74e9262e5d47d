package export

import (
	"fmt"
	"slices"

	"github.com/creditmirror/creditmirror/mirror"
)

// table is what is exported of one table of the mirror.
type table struct {
	mirror.Table
	// version is raised when columns are added.
	version int
	// sum is the column that is added up per currency; empty: none.
	sum string
	// appendOnly says that amounts never change and that rows never go, so that
	// totals follow from the rows that were added.
	appendOnly bool

	currency, amount, created int // indexes of columns; -1: the table has none
}

// The tables, in the order of their files. Events, dead letters and the state of
// syncs are not exported: they are the mirror's own affairs.
var exported = []struct {
	name, sum  string
	version    int
	appendOnly bool
}{
	{name: "customers", sum: "balance", version: 1},
	{name: "customer_balances", sum: "balance", version: 1},
	{name: "customer_balance_transactions", sum: "amount", version: 1, appendOnly: true},
	{name: "credit_grants", sum: "amount", version: 1, appendOnly: true},
	{name: "credit_balance_transactions", sum: "amount", version: 1, appendOnly: true},
	{name: "credit_balance_summaries", sum: "ledger_balance", version: 1},
	{name: "drift_findings", version: 1},
	{name: "closed_periods", version: 1},
	{name: "api_writes", sum: "amount", version: 1},
}

// TableNames lists the tables that can be exported.
func TableNames() []string {
	var names []string
	for _, t := range exported {
		names = append(names, t.name)
	}
	return names
}

// tablesNamed returns the tables of these names in their order; none means all.
// CheckTables refuses names that are no tables of an export.
func CheckTables(names []string) error {
	_, err := tablesNamed(names)
	return err
}

func tablesNamed(names []string) ([]table, error) {
	all := mirror.Tables()
	var list []table
	for _, e := range exported {
		if len(names) > 0 && !slices.Contains(names, e.name) {
			continue
		}
		i := slices.IndexFunc(all, func(t mirror.Table) bool { return t.Name == e.name })
		if i < 0 {
			return nil, fmt.Errorf("the mirror has no table %s", e.name)
		}
		t := table{Table: all[i], version: e.version, sum: e.sum, appendOnly: e.appendOnly}
		t.currency, t.amount, t.created = t.index("currency"), t.index(e.sum), t.index("created")
		list = append(list, t)
	}
	for _, name := range names {
		if !slices.Contains(TableNames(), name) {
			return nil, fmt.Errorf("%q is no table of an export; they are %v", name, TableNames())
		}
	}
	return list, nil
}

func (t table) index(column string) int {
	return slices.IndexFunc(t.Columns, func(c mirror.Column) bool { return c.Name == column })
}

// The columns that every table has behind its own.
const (
	opUpsert = "upsert"
	opDelete = "delete"
)

var metaColumns = []mirror.Column{
	{Name: "_op"},
	{Name: "_position", Kind: mirror.KindInt},
	{Name: "_synced_at", Kind: mirror.KindTime},
}

// columns are the table's own and the added ones.
func (t table) columns() []mirror.Column {
	return append(slices.Clone(t.Columns), metaColumns...)
}

// typeName is a column's type as the manifest gives it.
func typeName(k mirror.Kind) string {
	switch k {
	case mirror.KindInt:
		return "int64"
	case mirror.KindBool:
		return "boolean"
	case mirror.KindTime:
		return "timestamp"
	case mirror.KindJSON:
		return "json"
	default:
		return "string"
	}
}

func (t table) manifestColumns() []Column {
	var list []Column
	for _, c := range t.columns() {
		list = append(list, Column{Name: c.Name, Type: typeName(c.Kind)})
	}
	return list
}
