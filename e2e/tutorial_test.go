//go:build unix

package e2e

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/internal/patience"
)

var shellBlock = regexp.MustCompile("(?m)^```sh ?(\\S*)\n((?s:.*?))^```$")

// TestTutorial runs every command of docs/tutorial.md, in order and as it is written
// but for the ports, which are free ones, and the build, which is the tests' own.
//
// A block is marked with what it is: terminal-1 and terminal-2 run until the next block of the
// same terminal or the end, and then have to stop without an error; unmarked ones have
// to succeed.
func TestTutorial(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("the tutorial needs %s: %v", name, err)
		}
	}
	page, err := os.ReadFile("../docs/tutorial.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ports := []string{"127.0.0.1:12111", "127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:9090"}
	var places []string
	for _, p := range ports {
		places = append(places, p, freeAddr(t))
	}
	script := strings.NewReplacer(places...)
	// The environment of the tests stays out: the program refuses names that it does not know.
	env := []string{
		"PATH=" + filepath.Dir(build(t)) + ":" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + os.TempDir(),
		"CREDITMIRROR_WEBHOOK_ADDR=" + places[3], "CREDITMIRROR_API_ADDR=" + places[5], "CREDITMIRROR_OPS_ADDR=" + places[7],
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience.Of(2*time.Minute))
	defer cancel()
	command := func(text string) (*exec.Cmd, *bytes.Buffer) {
		cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", "[ ! -f mirror.env ] || . ./mirror.env\n"+script.Replace(text))
		cmd.Dir, cmd.Env = dir, env
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		return cmd, &out
	}
	type running struct {
		cmd *exec.Cmd
		out *bytes.Buffer
	}
	terminals := map[string]running{}
	stop := func(terminal string) {
		r, ok := terminals[terminal]
		if !ok {
			return
		}
		delete(terminals, terminal)
		_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGINT)
		if err := r.cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", terminal, err, r.out)
		}
	}
	defer func() {
		stop("terminal-2")
		stop("terminal-1")
	}()
	steps := 0
	var printed strings.Builder
	for _, b := range shellBlock.FindAllStringSubmatch(string(page), -1) {
		steps++
		switch kind, text := b[1], b[2]; kind {
		case "build":
		case "terminal-1", "terminal-2":
			stop(kind)
			// exec: the signal has to reach the program, and its exit status us.
			cmd, out := command("exec " + text)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			terminals[kind] = running{cmd, out}
			listens := places[1]
			if kind == "terminal-2" {
				listens = places[7]
			}
			eventually(t, 20*time.Second, strings.TrimSpace(text), func() error {
				conn, err := net.Dial("tcp", listens)
				if err == nil {
					conn.Close()
				}
				return err
			})
		case "":
			cmd, out := command(text)
			if err := cmd.Run(); err != nil {
				t.Fatalf("%s: %v\n%s", text, err, out)
			}
			printed.Write(out.Bytes())
		default:
			t.Fatalf("a block of an unknown kind, %q", kind)
		}
	}
	if steps < 10 {
		t.Fatalf("only %d blocks in docs/tutorial.md", steps)
	}
	for _, want := range []string{"created for http", "0 not proven", "freshness", "Every link holds.", `"object":"list"`, "edit without event"} {
		if !strings.Contains(printed.String(), want) {
			t.Errorf("nothing printed %q:\n%s", want, printed.String())
		}
	}
}

// freeAddr is an address on loopback that nothing listens on now.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
