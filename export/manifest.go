package export

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// formatVersion is that of the manifest and of the layout of files.
const formatVersion = 1

// The kinds of generations.
const (
	KindFull        = "full"
	KindIncremental = "incremental"
)

const (
	manifestFolder = "_manifests/"
	latestKey      = manifestFolder + "latest.json"
)

// Manifest describes one generation. Its existence makes the generation.
type Manifest struct {
	FormatVersion int   `json:"format_version"`
	Generation    int64 `json:"generation"`
	// Parent is the generation before this one; nil for the first.
	Parent      *int64 `json:"parent"`
	Kind        string `json:"kind"`
	ToolVersion string `json:"tool_version"`
	// DataLoadTime is when the rows were read.
	DataLoadTime time.Time `json:"data_load_time"`
	// FromPosition is where the generation begins in the change feed: the parent's
	// ToPosition. It is empty for a full generation.
	FromPosition string `json:"from_position"`
	ToPosition   string `json:"to_position"`
	// Position is the number that the rows carry in _position.
	Position int64 `json:"position"`
	// Tables describes what this generation holds.
	Tables map[string]TableManifest `json:"tables"`
	// Totals are those of the mirror's tables as of ToPosition.
	Totals map[string]mirror.TableTotals `json:"totals"`
	Files  []File                        `json:"files"`
	// UnprovenCustomers counts the customers of whom a history was not wholly held.
	UnprovenCustomers int64 `json:"unproven_customers"`
}

// TableManifest describes one table of a generation.
type TableManifest struct {
	SchemaVersion int              `json:"schema_version"`
	Columns       []Column         `json:"columns"`
	Rows          int64            `json:"rows"`
	Sums          map[string]int64 `json:"sums,omitempty"`
}

// Column is a column's name and type: string, int64, boolean, timestamp, json.
type Column struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// File describes one file. Rows that were deleted have no part in Sums.
type File struct {
	Path   string `json:"path"`
	Table  string `json:"table"`
	Month  string `json:"month"`
	Rows   int64  `json:"rows"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
	// MinCreated and MaxCreated are nil where the table has no created.
	MinCreated *time.Time       `json:"min_created"`
	MaxCreated *time.Time       `json:"max_created"`
	Sums       map[string]int64 `json:"sums,omitempty"`
}

func (m Manifest) key() string { return manifestKey(m.Generation) }

func manifestKey(generation int64) string {
	return fmt.Sprintf("%sg%06d.json", manifestFolder, generation)
}

var manifestPattern = regexp.MustCompile(`^_manifests/g([0-9]{6,})\.json$`)

// generationOf reads the generation out of a manifest's key.
func generationOf(key string) (int64, bool) {
	m := manifestPattern.FindStringSubmatch(key)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	return n, err == nil
}

var filePattern = regexp.MustCompile(`^[a-z_]+/month=[0-9]{4}-[0-9]{2}/g([0-9]{6,})-[0-9]{4,}\.(parquet|csv\.gz|jsonl\.gz)$`)

// fileKey names a data file.
func fileKey(table, month string, generation int64, n int, f Format) string {
	return path.Join(table, "month="+month, fmt.Sprintf("g%06d-%04d.%s", generation, n, f.extension()))
}

func (m Manifest) encode() ([]byte, error) {
	text, err := json.MarshalIndent(m, "", "  ")
	return append(text, '\n'), err
}

func decodeManifest(key string, text []byte) (Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("%s is no manifest: %w", key, err)
	}
	if m.FormatVersion > formatVersion {
		return m, fmt.Errorf("%s has format_version %d; this program knows %d: use a newer creditmirror", key, m.FormatVersion, formatVersion)
	}
	if g, ok := generationOf(key); !ok || g != m.Generation || m.FormatVersion < 1 {
		return m, fmt.Errorf("%s is no manifest of its generation", key)
	}
	return m, nil
}
