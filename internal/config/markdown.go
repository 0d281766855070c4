package config

import (
	"fmt"
	"strings"
)

const markdownHead = `# Options of limpet server and limpet agent

<!-- Generated from the table of options by: go run ./scripts/gendocs -->

Every option has one name in three places: the flag ` + "`--name`" + `, the environment variable given below, and the
key ` + "`name`" + ` of a config file. Flags beat the environment, which beats files.

**Config files.** ` + "`/etc/limpet/config.yaml`" + ` (or the file that ` + "`--config`" + ` names), then
` + "`/etc/limpet/config.yaml.d/*.yaml`" + ` and ` + "`*.yml`" + ` in alphabetical order. A later file replaces the values of an
earlier one; ` + "`key+:`" + ` adds to its list instead. An unknown key is an error, and so is a value of the wrong type.

` + "```yaml" + `
node-label:
  - site=harbour
tls-san: [cluster.example.com]
kubelet-arg+:
  - max-pods=200
` + "```" + `

**Lists** can be repeated (` + "`--tls-san a --tls-san b`" + `) or separated by commas (` + "`--tls-san a,b`" + `). Options that end in
` + "`-arg`" + ` can be repeated only, since their values may hold commas; in the environment, they are separated by line breaks.
An environment variable that is empty counts as not set.

` + "`limpet config print`" + ` shows the effective configuration and where each value comes from; ` + "`limpet config check`" + ` says
what is wrong with it. Both read the same flags, environment and files as ` + "`limpet server`" + `, or as ` + "`limpet agent`" + `
with ` + "`--for agent`" + `.
`

// Markdown is the content of docs/flags.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString(markdownHead)
	opts := Options()
	for _, group := range Groups(opts) {
		fmt.Fprintf(&b, "\n## %s\n\n", group)
		b.WriteString("| Option | Environment | Type | Default | Used by | Meaning |\n|---|---|---|---|---|---|\n")
		for i := range opts {
			if opts[i].Group == group {
				b.WriteString(markdownRow(&opts[i]))
			}
		}
	}
	return b.String()
}

func markdownRow(o *Option) string {
	var flags []string
	for _, f := range o.Flags() {
		if o.Value != "" {
			f += " " + o.Value
		}
		flags = append(flags, "`"+f+"`")
	}
	shown := o.Default
	if o.Kind == Bool {
		shown = "false"
	}
	usedBy := strings.ReplaceAll(o.Commands.String(), "limpet ", "")
	cells := []string{strings.Join(flags, ", "), "`" + o.Env + "`", o.Kind.String(), shown, usedBy, o.Usage}
	for i := range cells {
		cells[i] = strings.ReplaceAll(cells[i], "|", `\|`)
	}
	return "| " + strings.Join(cells, " | ") + " |\n"
}
