package sqlite_test

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
)

// A file is served by one process: the next is refused with the first's name, whatever
// connection it asks by, and the first leaves nothing behind that a kill -9 cannot end.
func TestOneServeOnAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(memoryDir(t), "mirror.db")
	s := open(t, path)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childFile+"="+path, childFile+"_OWNER=process 4711 of a test")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if lines := bufio.NewScanner(out); !lines.Scan() || lines.Text() != "claimed <nil>" {
		t.Fatalf("the first says %q", lines.Text())
	}
	if _, err := s.Claim(t.Context(), "the second"); !errors.Is(err, mirror.ErrServed) || !strings.Contains(err.Error(), "process 4711 of a test") || !strings.Contains(err.Error(), path) {
		t.Fatalf("%v, want ErrServed with the file and the first's name", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait() // killed: no error to learn
	release, err := s.Claim(t.Context(), "the second")
	if err != nil {
		t.Fatalf("after kill -9: %v", err)
	}
	other, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.Claim(t.Context(), "the third"); !errors.Is(err, mirror.ErrServed) || !strings.Contains(err.Error(), "the second") {
		t.Fatalf("in the same process: %v, want ErrServed with the second's name", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	again, err := other.Claim(t.Context(), "the third")
	if err != nil {
		t.Fatal(err)
	}
	if err := again(); err != nil {
		t.Fatal(err)
	}
}
