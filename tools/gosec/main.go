// Command gosec looks for insecure code in the packages below the working directory, and
// exits 1 where it finds any that is not answered. An answer stands beside the line,
// "#nosec G115 -- why", or below, where it is one for many lines.
package main

import (
	"cmp"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/securego/gosec/v2"
	"github.com/securego/gosec/v2/analyzers"
	"github.com/securego/gosec/v2/issue"
	"github.com/securego/gosec/v2/rules"
)

// Not looked at: what only tests import or run. It starts programs, reads files by any name
// and has fixed seeds, and nothing of it is in the binary.
var testSupport = []string{
	`internal/pgtest`, `internal/redistest`, `internal/sqlitetest`, `mirror/mirrortest`, `queue/queuetest`, `testdata`, `tools`,
}

// Names that make a constant look like a secret (G101). Those of gosec have "cred", which is
// in every "credit", and "pass" and "pw".
const secretNames = `(?i)passwd|password|pwd|secret|token|apiKey|bearer|credential`

func main() {
	config := gosec.NewConfig()
	config.Set("G101", map[string]any{"pattern": secretNames})
	config.SetGlobal(gosec.NoSecRequireRules, "true")
	config.SetGlobal(gosec.NoSecRequireJustification, "true")
	a := gosec.NewAnalyzer(config, false, false, false, runtime.NumCPU(), log.New(io.Discard, "", 0))
	a.LoadRules(rules.Generate(false).RulesInfo())
	a.LoadAnalyzers(analyzers.Generate(false).AnalyzersInfo())
	packages, err := gosec.PackagePaths("./...", gosec.ExcludedDirsRegExp(append(testSupport, `\.git`)))
	if err == nil {
		err = a.Process(nil, packages...)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gosec:", err)
		os.Exit(2)
	}
	found, metrics, failed := a.Report()
	here, _ := os.Getwd()
	name := func(path string) string {
		if short, err := filepath.Rel(here, path); err == nil {
			return short
		}
		return path
	}
	line := func(i *issue.Issue) int {
		first, _, _ := strings.Cut(i.Line, "-")
		n, _ := strconv.Atoi(first)
		return n
	}
	slices.SortFunc(found, func(x, y *issue.Issue) int { return cmp.Or(cmp.Compare(x.File, y.File), line(x)-line(y)) })
	for _, i := range found {
		fmt.Printf("%s:%d:%s: %s %s\n", name(i.File), line(i), i.Col, i.RuleID, i.What)
	}
	for path, list := range failed {
		for _, e := range list {
			fmt.Printf("%s:%d: %s\n", name(path), e.Line, e.Err)
		}
	}
	fmt.Fprintf(os.Stderr, "gosec: %d files, %d findings, %d answered\n", metrics.NumFiles, len(found), metrics.NumNosec)
	if len(found)+len(failed) > 0 || metrics.NumFiles < 100 {
		os.Exit(1)
	}
}
