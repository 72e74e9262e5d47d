package opstest

import (
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// A release is only as good as what makes it: the workflow runs on tags alone, every action
// is named by its commit and every tool by its version, nothing of another run is taken,
// and all that goreleaser lists is attested.
func TestReleaseWorkflow(t *testing.T) {
	t.Parallel()
	text := read(t, ".github/workflows/release.yml")
	var w struct {
		On struct {
			Push map[string][]string `json:"push"`
		} `json:"on"`
		Permissions map[string]string `json:"permissions"`
		Jobs        map[string]struct {
			Permissions map[string]string `json:"permissions"`
			Steps       []struct {
				Uses string         `json:"uses"`
				Run  string         `json:"run"`
				With map[string]any `json:"with"`
			} `json:"steps"`
		} `json:"jobs"`
	}
	// YAML 1.1 takes the key for a boolean.
	if err := yaml.Unmarshal([]byte(strings.Replace(text, "\non:\n", "\n\"on\":\n", 1)), &w); err != nil {
		t.Fatal(err)
	}
	if len(w.On.Push) != 1 || len(w.On.Push["tags"]) != 1 || len(w.Permissions) != 0 || len(w.Jobs) != 1 {
		t.Errorf("runs on %v, with %v, %d jobs", w.On.Push, w.Permissions, len(w.Jobs))
	}
	attested := map[string]bool{}
	pinned := regexp.MustCompile(`^actions/[a-z-]+@[0-9a-f]{40}$`)
	for _, job := range w.Jobs {
		for _, s := range job.Steps {
			if s.Uses != "" && !pinned.MatchString(s.Uses) {
				t.Errorf("%s is not named by its commit, or not GitHub's own", s.Uses)
			}
			for _, install := range regexp.MustCompile(`go install \S+`).FindAllString(s.Run, -1) {
				if !regexp.MustCompile(`@v\d+\.\d+\.\d+$`).MatchString(install) {
					t.Errorf("%s: without a version", install)
				}
			}
			if strings.Contains(s.Run, "${{") {
				t.Errorf("what others can name is put into a script: %s", s.Run)
			}
			if strings.HasPrefix(s.Uses, "actions/attest-build-provenance@") {
				file, _ := s.With["subject-checksums"].(string)
				attested[strings.TrimPrefix(file, "./dist/")] = true
			}
		}
		for name := range job.Permissions {
			if name != "contents" && name != "packages" && name != "id-token" && name != "attestations" {
				t.Errorf("permission %s", name)
			}
		}
	}
	var g struct {
		Checksum struct {
			Name string `json:"name_template"`
		} `json:"checksum"`
		Digest struct {
			Name string `json:"name_template"`
		} `json:"docker_digest"`
		SBOMs       []any `json:"sboms"`
		Signs       []any `json:"signs"`
		DockerSigns []any `json:"docker_signs"`
	}
	if err := yaml.Unmarshal([]byte(read(t, ".goreleaser.yaml")), &g); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{g.Checksum.Name, g.Digest.Name} {
		if file == "" || !attested[file] {
			t.Errorf("%q is not attested", file)
		}
	}
	if len(g.SBOMs) == 0 || len(g.Signs) == 0 || len(g.DockerSigns) == 0 {
		t.Error("a release lacks its list of modules, or a signature")
	}
}
