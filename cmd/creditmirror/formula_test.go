package main

import (
	"bytes"
	"encoding/csv"
	"testing"
)

// A description that begins as a formula does is a text in a spreadsheet.
func TestReportsHoldNoFormulas(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	r, err := newReport(&out, "csv", "text", "amount", "decimal")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{`=HYPERLINK("http://evil.example","x")`, "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "a=b", "-", ""} {
		if err := r.write(text, -5, "-1.50"); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&out).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`'=HYPERLINK("http://evil.example","x")`, "'+1+1", "'-2+3", "'@SUM(A1)", "'\t=1", "'\r=1", "a=b", "-", ""}
	for i, text := range want {
		if row := rows[i+1]; row[0] != text || row[1] != "-5" || row[2] != "-1.50" {
			t.Errorf("row %d: %q, want %q", i, row, text)
		}
	}
}
