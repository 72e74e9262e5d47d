package architecture

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// mostMethods bounds what a contract asks of whoever keeps it.
const mostMethods = 20

// wholeStores are the packages whose code may name mirror.Store: those that open a
// database, and the suite that both pass. Everybody else names what it uses.
var wholeStores = []string{"app", "cmd/creditmirror", "mirror", "mirror/mirrortest", "mirror/postgres", "mirror/sqlite", "simulation"}

// contracts are the interfaces of the module's code by package and name, and the
// packages that name mirror.Store.
func contracts(t *testing.T) (list map[string]*ast.InterfaceType, naming []string) {
	t.Helper()
	list = map[string]*ast.InterfaceType{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case err != nil:
			return err
		case d.IsDir() && (name == "testdata" || name == "tools" || name != ".." && strings.HasPrefix(name, ".")):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.TypeSpec:
				if i, ok := n.Type.(*ast.InterfaceType); ok {
					list[filepath.Base(dir)+"."+n.Name.Name] = i
				}
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "mirror" && n.Sel.Name == "Store" {
					naming = append(naming, filepath.ToSlash(dir))
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list, naming
}

// methodsOf counts an interface's own methods and those of what it embeds.
func methodsOf(list map[string]*ast.InterfaceType, name string) int {
	pkg, _, _ := strings.Cut(name, ".")
	n := 0
	for _, m := range list[name].Methods.List {
		switch e := m.Type.(type) {
		case *ast.FuncType:
			n++
		case *ast.Ident:
			if _, ok := list[pkg+"."+e.Name]; ok {
				n += methodsOf(list, pkg+"."+e.Name)
			}
		case *ast.SelectorExpr:
			if x, ok := e.X.(*ast.Ident); ok && list[x.Name+"."+e.Sel.Name] != nil {
				n += methodsOf(list, x.Name+"."+e.Sel.Name)
			}
		}
	}
	return n
}

// A contract that asks for much is kept by nobody but a database, and says little of
// whoever uses it.
func TestContractsAreSmall(t *testing.T) {
	t.Parallel()
	list, naming := contracts(t)
	if n := methodsOf(list, "mirror.Store"); n < 60 {
		t.Errorf("mirror.Store has %d methods: they are not counted", n)
	}
	for name := range list {
		if n := methodsOf(list, name); n > mostMethods && name != "mirror.Store" {
			t.Errorf("%s has %d methods, want at most %d", name, n, mostMethods)
		}
	}
	slices.Sort(naming)
	for _, pkg := range slices.Compact(naming) {
		if !slices.Contains(wholeStores, pkg) {
			t.Errorf("%s names mirror.Store: it should name the methods that it uses", pkg)
		}
	}
}
