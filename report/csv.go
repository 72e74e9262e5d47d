package report

import (
	"strconv"
	"strings"
)

// NoFormulas changes the cells of a CSV row so that a spreadsheet takes no text of them
// for a formula: whoever writes a description at Stripe would run it on the reader's
// machine. Numbers stay as they are. It returns cells.
func NoFormulas(cells []string) []string {
	for i, s := range cells {
		if len(s) < 2 || !strings.ContainsRune("=+-@\t\r", rune(s[0])) {
			continue
		}
		if _, err := strconv.ParseFloat(s, 64); err != nil {
			cells[i] = "'" + s
		}
	}
	return cells
}
