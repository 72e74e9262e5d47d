package config

import (
	"os"
	"strings"
	"testing"
)

// The table in docs/configuration.md must be the one in the code.
func TestDocumentedTable(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range Vars() {
		row := "| `" + string(s.Var) + "` | `" + s.Var.Flag() + "` | "
		if s.Default != "" {
			row += "`" + s.Default + "`"
		} else {
			row += "–"
		}
		row += " | " + strings.ReplaceAll(s.Help, "|", `\|`)
		if !strings.Contains(string(doc), row) {
			t.Errorf("docs/configuration.md lacks the row:\n%s", row)
		}
	}
}
