package console

import (
	"fmt"
	"html/template"
	"net/http"
	"regexp"
	"strings"

	"github.com/creditmirror/creditmirror/docs"
)

var runbookName = regexp.MustCompile(`^Creditmirror[A-Za-z]{3,60}$`)

// readRunbook reads the page of an alert.
func readRunbook(name string) (string, bool) {
	if !runbookName.MatchString(name) {
		return "", false
	}
	text, err := docs.Runbooks.ReadFile("runbooks/" + name + ".md")
	return string(text), err == nil
}

// steps is the section "What to do" of a runbook.
func steps(name string) template.HTML {
	text, _ := readRunbook(name)
	_, rest, found := strings.Cut(text, "## What to do\n")
	if !found {
		return ""
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	return markdown(rest)
}

func (v *view) runbook() error {
	name := strings.TrimSuffix(v.r.PathValue("name"), ".md")
	text, found := readRunbook(name)
	if !found {
		return notFound("There is no runbook %q.", name)
	}
	if first, rest, ok := strings.Cut(text, "\n"); ok && strings.HasPrefix(first, "# ") {
		text = rest
	}
	return v.show("runbook", http.StatusOK, struct {
		page
		Text template.HTML
	}{v.page(name, ""), markdown(text)})
}

var (
	codeSpan   = regexp.MustCompile("`([^`]+)`")
	boldText   = regexp.MustCompile(`\*\*([^*]+)\*\*`)
	linkText   = regexp.MustCompile(`\[([^\]]+)\]\(([^)\s]+)\)`)
	listItem   = regexp.MustCompile(`^(\s*)(?:[-*]|[0-9]+\.)\s+(.*)$`)
	numbered   = regexp.MustCompile(`^\s*[0-9]+\.\s`)
	headingRow = regexp.MustCompile(`^(#{1,4}) (.*)$`)
)

// markdown renders the little of Markdown that our own documents use. Everything in it is
// escaped first.
func markdown(text string) template.HTML {
	var b strings.Builder
	var paragraph []string
	var lists []string // closing tags of the open lists
	flush := func() {
		if len(paragraph) > 0 {
			fmt.Fprintf(&b, "<p>%s</p>\n", inline(strings.Join(paragraph, " ")))
			paragraph = nil
		}
	}
	closeLists := func(depth int) {
		for len(lists) > depth {
			b.WriteString("</li>" + lists[len(lists)-1] + "\n")
			lists = lists[:len(lists)-1]
		}
	}
	fence, table := false, false
	for row := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(row), "```") {
			flush()
			closeLists(0)
			if fence = !fence; fence {
				b.WriteString(`<pre tabindex="0">`)
			} else {
				b.WriteString("</pre>\n")
			}
			continue
		}
		if fence {
			b.WriteString(template.HTMLEscapeString(row) + "\n")
			continue
		}
		isRow := strings.HasPrefix(row, "|")
		if table && !isRow {
			b.WriteString("</tbody></table></div>\n")
			table = false
		}
		item := listItem.FindStringSubmatch(row)
		switch heading := headingRow.FindStringSubmatch(row); {
		case heading != nil:
			flush()
			closeLists(0)
			level := min(len(heading[1])+0, 4)
			fmt.Fprintf(&b, "<h%d>%s</h%d>\n", max(2, level), inline(heading[2]), max(2, level))
		case isRow:
			flush()
			closeLists(0)
			cells := strings.Split(strings.Trim(row, "|"), "|")
			if strings.Trim(row, "|-: ") == "" {
				continue
			}
			tag := "td"
			if !table {
				b.WriteString(`<div class="scroll" tabindex="0"><table><tbody>`)
				table, tag = true, "th"
			}
			b.WriteString("<tr>")
			for _, cell := range cells {
				fmt.Fprintf(&b, "<%s>%s</%s>", tag, inline(strings.TrimSpace(cell)), tag)
			}
			b.WriteString("</tr>\n")
		case item != nil:
			flush()
			depth := min(len(item[1])/2+1, len(lists)+1)
			closeLists(depth)
			if len(lists) == depth {
				b.WriteString("</li>")
			} else {
				open, end := "<ul>", "</ul>"
				if numbered.MatchString(row) {
					open, end = "<ol>", "</ol>"
				}
				b.WriteString(open)
				lists = append(lists, end)
			}
			b.WriteString("<li>" + string(inline(item[2])))
		case strings.TrimSpace(row) == "":
			flush()
			closeLists(0)
		case len(lists) > 0: // goes on
			b.WriteString(" " + string(inline(strings.TrimSpace(row))))
		default:
			paragraph = append(paragraph, strings.TrimSpace(row))
		}
	}
	flush()
	closeLists(0)
	if table {
		b.WriteString("</tbody></table></div>\n")
	}
	if fence {
		b.WriteString("</pre>\n")
	}
	return template.HTML(b.String()) // #nosec G203 -- our own text, escaped
}

// inline renders code, bold text and links to other runbooks.
func inline(text string) template.HTML {
	out := template.HTMLEscapeString(text)
	out = linkText.ReplaceAllStringFunc(out, func(m string) string {
		part := linkText.FindStringSubmatch(m)
		if name := strings.TrimSuffix(part[2], ".md"); runbookName.MatchString(name) {
			return `<a href="/runbooks/` + name + `">` + part[1] + `</a>`
		}
		return part[1]
	})
	out = codeSpan.ReplaceAllString(out, "<code>$1</code>")
	out = boldText.ReplaceAllString(out, "<strong>$1</strong>")
	return template.HTML(out) // #nosec G203 -- our own text, escaped
}
