package opstest

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// There is no Docker engine where these tests run. They take the Dockerfile's own
// steps, run those of the build stage in a clean checkout, put the files of the last
// stage into an empty folder, and run the program in it, as the image's user and with
// nothing else around it.

// buildStep finds the command of the Dockerfile that makes the binary.
func buildStep(t testing.TB) (command string, env []string) {
	t.Helper()
	text := read(t, "Dockerfile")
	m := regexp.MustCompile(`(?m)^RUN (GOOS=.* go build .*)$`).FindStringSubmatch(text)
	e := regexp.MustCompile(`(?m)^ENV (CGO_ENABLED=0 .*)$`).FindStringSubmatch(text)
	if m == nil || e == nil {
		t.Fatal("the Dockerfile has no build step of the form that this test knows")
	}
	return m[1], strings.Fields(e[1])
}

// checkout is a clean copy of what git has, as an image's build would get it.
func checkout(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "src")
	if out, err := exec.CommandContext(t.Context(), "git", "clone", "-q", "--no-hardlinks", root, dir).CombinedOutput(); err != nil {
		t.Skipf("no clean checkout here: %v %s", err, out)
	}
	return dir
}

// buildImage runs the build step in a clean checkout and returns the root folder.
func buildImage(t testing.TB) string {
	t.Helper()
	src := checkout(t)
	out := filepath.Join(filepath.Dir(src), "out")
	if err := os.MkdirAll(filepath.Join(out, "tmp"), 0o755); err != nil {
		t.Fatal(err)
	}
	command, env := buildStep(t)
	command = strings.ReplaceAll(command, "/out/", out+"/")
	cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
	cmd.Dir = src
	cmd.Env = append(append(os.Environ(), env...), "TARGETOS=linux", "TARGETARCH=amd64", "VERSION=")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, text)
	}
	return out
}

func TestImage(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program twice")
	}
	first := buildImage(t)
	bin := filepath.Join(first, "creditmirror")
	info, err := os.Stat(bin)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err != nil {
		t.Skip("this machine has no CA certificates to copy")
	}
	// A registry keeps layers compressed, and that is what a node fetches.
	size := compressed(t, bin) + int64(len(certs))
	t.Logf("the image's files are %.1f MiB, %.1f MiB compressed", float64(info.Size()+int64(len(certs)))/(1<<20), float64(size)/(1<<20))
	if size > 40<<20 {
		t.Errorf("%d bytes compressed are more than 40 MiB", size)
	}

	f, err := elf.Open(bin)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the binary is not static: it has %v", p.Type)
		}
	}

	// The same commit makes the same bytes, wherever it is built.
	again := filepath.Join(buildImage(t), "creditmirror")
	if sum(t, bin) != sum(t, again) {
		t.Error("two builds of the same commit differ")
	}
	text, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte(filepath.Dir(first))) {
		t.Error("the binary names the folder that it was built in")
	}

	runInImage(t, first, certs)
}

// compressed is the size of a file as gzip's default level leaves it, as in a layer.
func compressed(t testing.TB, path string) int64 {
	t.Helper()
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := io.Copy(w, in); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return int64(out.Len())
}

func sum(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(text))
}

// runInImage runs the program where there is nothing but the image's files.
func runInImage(t *testing.T, rootfs string, certs []byte) {
	if os.Getuid() != 0 {
		t.Skip("only root may change its root folder")
	}
	const uid = 65532
	for path, mode := range map[string]os.FileMode{"data": 0o755, "tmp": 0o777 | os.ModeSticky, "etc/ssl/certs": 0o755} {
		if err := os.MkdirAll(filepath.Join(rootfs, path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(rootfs, path), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(rootfs, "data"), uid, uid); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rootfs, "etc/ssl/certs/ca-certificates.crt"), certs, 0o644); err != nil {
		t.Fatal(err)
	}
	ops := freeAddr(t)
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "/creditmirror", args...)
		cmd.Err = nil // it is looked for before the root folder changes
		cmd.Path, cmd.Dir = "/creditmirror", "/data"
		cmd.Env = []string{"CREDITMIRROR_OPS_ADDR=" + ops}
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: rootfs, Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("version"); err != nil || strings.Contains(out, "(devel)") || !strings.Contains(out, "revision ") || strings.Contains(out, "unknown") {
		t.Errorf("version: %v %s: want the version and revision of the checkout", err, out)
	} else {
		t.Log(strings.TrimSpace(out))
	}
	if out, err := run("healthcheck"); err == nil {
		t.Errorf("healthcheck of nothing passes: %s", out)
	}
	demo := make(chan string, 1)
	go func() {
		out, err := run("demo", "--for=6s")
		demo <- fmt.Sprint(out, err)
	}()
	within(t, 20*time.Second, "the image's own health check passes", func() (string, bool) {
		out, err := run("healthcheck")
		return out, err == nil
	})
	if out := <-demo; !strings.Contains(out, "0 differences") {
		t.Errorf("demo: %s", out)
	}
}

// What cannot be shown without an engine is at least written down as it should be.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	text := read(t, "Dockerfile")
	_, last, ok := strings.Cut(text, "\nFROM scratch\n")
	if !ok {
		t.Fatal("the last stage is not an empty image")
	}
	for _, line := range []string{
		"USER 65532:65532", "HEALTHCHECK ", `CMD ["/creditmirror", "healthcheck"]`, `ENTRYPOINT ["/creditmirror"]`, "/etc/ssl/certs/ca-certificates.crt",
		"org.opencontainers.image.source", "org.opencontainers.image.licenses", "CREDITMIRROR_OPS_ADDR=:9090",
	} {
		if !strings.Contains(last, line) {
			t.Errorf("the last stage has no %q", line)
		}
	}
	// go.mod and the image agree on the Go version.
	image := regexp.MustCompile(`GO_VERSION=(\d+\.\d+)`).FindStringSubmatch(text)
	module := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "go.mod"))
	if image == nil || module == nil || image[1] != module[1] {
		t.Errorf("the Dockerfile builds with Go %v, go.mod wants %v", image, module)
	}
}

// goreleaser's image is built from the same Dockerfile, in a folder that holds only
// what the configuration names: every package must be named.
func TestReleaseHasEveryFolder(t *testing.T) {
	t.Parallel()
	var c struct {
		Dockers []struct {
			ExtraFiles []string `json:"extra_files"`
		} `json:"dockers"`
	}
	if err := yaml.Unmarshal([]byte(read(t, ".goreleaser.yaml")), &c); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{.ImportPath}}", "./cmd/creditmirror")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		own, ok := strings.CutPrefix(strings.TrimSpace(line), "github.com/creditmirror/creditmirror/")
		if !ok {
			continue
		}
		folder, _, _ := strings.Cut(own, "/")
		for i, d := range c.Dockers {
			if !slices.Contains(d.ExtraFiles, folder) {
				t.Errorf(".goreleaser.yaml: dockers[%d].extra_files lacks %s", i, folder)
			}
		}
	}
	if len(c.Dockers) != 2 {
		t.Errorf("want images for two architectures, have %d", len(c.Dockers))
	}
}
