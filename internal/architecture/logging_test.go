package architecture

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

// sources parses the program's code without its tests.
func sources(t *testing.T, visit func(path string, call *ast.CallExpr)) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "tools" || d.Name() == "internal" || strings.HasPrefix(d.Name(), ".") && path != root):
			return fs.SkipDir
		case d.IsDir(), !strings.HasSuffix(path, ".go"), strings.HasSuffix(path, "_test.go"), strings.HasSuffix(filepath.Dir(path), "test"):
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files++
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				visit(path, call)
			}
			return true
		})
		return nil
	})
	if err != nil || files < 50 {
		t.Fatalf("%d files read: %v", files, err)
	}
}

// text is the value of a string literal, and false for anything else.
func text(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(lit.Value)
	return s, err == nil
}

// isLogger reports whether an expression is one of our loggers, by its name.
func isLogger(e ast.Expr) bool {
	name := ""
	switch e := e.(type) {
	case *ast.Ident:
		name = e.Name
	case *ast.SelectorExpr:
		name = e.Sel.Name
	}
	return name == "log" || name == "Log" || name == "noise"
}

// Whoever reads a warning or an error at night finds the line in docs/logging.md
// that says what to do; and the document has no message that nobody writes.
func TestEveryWarningIsDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile(filepath.Join(root, "docs/logging.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, tables, _ := strings.Cut(string(doc), "\n## Errors\n")
	tables, _, _ = strings.Cut(tables, "\n## Reworded messages\n")
	told := map[string]bool{}
	for line := range strings.Lines(tables) {
		if cells := strings.Split(line, "|"); len(cells) > 3 {
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[1], -1) {
				told[m[1]] = false
			}
			if strings.TrimSpace(cells[3]) == "" {
				t.Errorf("docs/logging.md says nothing to do: %s", line)
			}
		}
	}
	found := 0
	sources(t, func(path string, call *ast.CallExpr) {
		place := -1
		switch f := call.Fun.(type) {
		case *ast.SelectorExpr:
			if (f.Sel.Name == "Warn" || f.Sel.Name == "Error") && isLogger(f.X) {
				place = 0
			} else if f.Sel.Name == "NewOutageLog" {
				place = 1 // behind the logger: how an outage is logged
			}
		case *ast.Ident:
			if f.Name == "NewOutageLog" {
				place = 1
			}
		}
		if place < 0 || len(call.Args) <= place {
			return
		}
		found++
		message, ok := text(call.Args[place])
		if !ok {
			t.Errorf("%s: a message that is not constant", path)
			return
		}
		if _, ok := told[message]; !ok {
			t.Errorf("%s: docs/logging.md does not tell of %q", path, message)
		}
		told[message] = true
	})
	for message, used := range told {
		if !used {
			t.Errorf("docs/logging.md tells of %q, which nobody writes", message)
		}
	}
	if found < 40 {
		t.Fatalf("only %d warnings and errors found", found)
	}
}

// Fields come from one list.
func TestEveryLogFieldIsDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile(filepath.Join(root, "docs/logging.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(doc), "\n## Fields\n")
	table, _, _ = strings.Cut(table, "\n## ")
	told := map[string]bool{}
	for line := range strings.Lines(table) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[1], -1) {
				told[m[1]] = true
			}
		}
	}
	seen := 0
	sources(t, func(path string, call *ast.CallExpr) {
		f, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || len(call.Args) == 0 {
			return
		}
		pkg, ok := f.X.(*ast.Ident)
		if !ok || pkg.Name != "zap" && pkg.Name != "enc" || pkg.Name == "enc" && !strings.HasPrefix(f.Sel.Name, "Add") {
			return
		}
		name, ok := text(call.Args[0])
		if !ok {
			return
		}
		seen++
		if !told[name] {
			t.Errorf("%s: docs/logging.md does not tell of the field %q", path, name)
		}
	})
	if seen < 50 {
		t.Fatalf("only %d fields found", seen)
	}
}
