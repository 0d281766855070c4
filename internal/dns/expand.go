package dns

import (
	"path"
	"slices"
	"strings"
)

const (
	// configDir is where a CoreDNS pod sees its ConfigMap, customDir the optional second one.
	configDir = "/etc/coredns"
	customDir = configDir + "/custom"

	// Limits of one configuration, so that a careless ConfigMap cannot make the
	// process swell: imports may nest so deep, and all lines may be so many.
	maxImportDepth = 16
	maxLines       = 20000
)

// virtualFiles are the files that a Corefile may name, by absolute path.
type virtualFiles map[string]string

// newVirtualFiles lays out the two ConfigMaps as the pod would see them.
func newVirtualFiles(main, custom map[string]string) virtualFiles {
	files := make(virtualFiles, len(main)+len(custom))
	for key, text := range main {
		files[configDir+"/"+key] = text
	}
	for key, text := range custom {
		files[customDir+"/"+key] = text
	}
	return files
}

// resolve makes a path of a Corefile absolute; relative ones count from the Corefile's directory.
func resolve(name string) string {
	if !path.IsAbs(name) {
		name = path.Join(configDir, name)
	}
	return path.Clean(name)
}

// expand returns the lines of the Corefile with every import, of files and of
// snippets, replaced by what it names and the snippet definitions taken out.
// Nothing outside files is ever read.
func expand(files virtualFiles) ([]line, error) {
	x := expander{files: files, snippets: make(map[string][]line)}
	name := configDir + "/Corefile"
	if err := x.file(name, 0); err != nil {
		return nil, err
	}
	return x.out, nil
}

type expander struct {
	files    virtualFiles
	snippets map[string][]line
	out      []line
	nesting  int    // depth of braces in out
	defining string // name of the snippet being defined, or empty
}

func (x *expander) file(name string, depth int) error {
	lines, err := lex(name, x.files[name])
	if err != nil {
		return err
	}
	return x.lines(lines, depth)
}

func (x *expander) lines(lines []line, depth int) error {
	for _, l := range lines {
		if err := x.line(l, depth); err != nil {
			return err
		}
	}
	return nil
}

func (x *expander) line(l line, depth int) error {
	if x.defining != "" {
		return x.snippetLine(l)
	}
	if l.words[0] == "import" {
		return x.importLine(l, depth)
	}
	if name, ok := snippetName(l); ok && x.nesting == 0 {
		if _, twice := x.snippets[name]; twice {
			return l.errorf("snippet (%s) is defined twice", name)
		}
		x.defining = name
		x.snippets[name] = nil
		x.nesting = 1
		return nil
	}
	for _, w := range l.words {
		switch w {
		case "{":
			x.nesting++
		case "}":
			x.nesting--
		}
	}
	if x.nesting < 0 {
		return l.errorf("unexpected }")
	}
	x.out = append(x.out, l)
	if len(x.out) > maxLines {
		return l.errorf("the configuration has more than %d lines after imports", maxLines)
	}
	return nil
}

// snippetLine collects a line of the snippet being defined until its brace closes.
func (x *expander) snippetLine(l line) error {
	for i, w := range l.words {
		switch w {
		case "{":
			x.nesting++
		case "}":
			x.nesting--
		}
		if x.nesting == 0 {
			if i != len(l.words)-1 {
				return l.errorf("snippet (%s): nothing may follow the closing }", x.defining)
			}
			if i > 0 {
				head := line{file: l.file, num: l.num, words: l.words[:i]}
				x.snippets[x.defining] = append(x.snippets[x.defining], head)
			}
			x.defining = ""
			return nil
		}
	}
	x.snippets[x.defining] = append(x.snippets[x.defining], l)
	return nil
}

func (x *expander) importLine(l line, depth int) error {
	if len(l.words) != 2 {
		return l.errorf("import takes one file, pattern or snippet")
	}
	if depth >= maxImportDepth {
		return l.errorf("imports are nested more than %d deep", maxImportDepth)
	}
	arg := l.words[1]
	if body, ok := x.snippets[arg]; ok {
		return x.lines(body, depth+1)
	}
	pattern := resolve(arg)
	if !strings.ContainsAny(arg, "*?[") {
		if _, ok := x.files[pattern]; !ok {
			return l.errorf("import: no snippet (%s) and no file %s; files are the keys of the ConfigMaps coredns (%s) and coredns-custom (%s)",
				arg, pattern, configDir, customDir)
		}
		return x.file(pattern, depth+1)
	}
	var names []string
	for name := range x.files {
		ok, err := path.Match(pattern, name)
		if err != nil {
			return l.errorf("import %s: %w", arg, err)
		}
		if ok {
			names = append(names, name)
		}
	}
	slices.Sort(names) // the order in which a file system would list them
	for _, name := range names {
		if err := x.file(name, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// snippetName recognises "(name) {".
func snippetName(l line) (string, bool) {
	if len(l.words) != 2 || l.words[1] != "{" {
		return "", false
	}
	w := l.words[0]
	if len(w) < 3 || w[0] != '(' || w[len(w)-1] != ')' {
		return "", false
	}
	return w[1 : len(w)-1], true
}
