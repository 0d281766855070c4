package hostcheck

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// maxKernelConfig bounds what is unpacked; real ones are about 300 KiB.
const maxKernelConfig = 8 << 20

// kernelConfigFiles are where distributions keep the running kernel's
// configuration, best first.
func kernelConfigFiles(release string) []string {
	return []string{
		"proc/config.gz",
		"boot/config-" + release,
		"lib/modules/" + release + "/config",
		"usr/lib/modules/" + release + "/config",
		"lib/modules/" + release + "/build/.config",
		"usr/src/linux-" + release + "/.config",
		"usr/lib/ostree-boot/config-" + release,
	}
}

// readKernelConfig returns the first configuration found and where; an empty
// source means that there is none.
func readKernelConfig(root fs.FS, release string) (config map[string]string, source string) {
	for _, name := range kernelConfigFiles(release) {
		b, err := fs.ReadFile(root, name)
		if err != nil {
			continue
		}
		if strings.HasSuffix(name, ".gz") {
			if b, err = gunzip(b); err != nil {
				continue
			}
		}
		if config = parseKernelConfig(string(b)); len(config) > 0 {
			return config, "/" + name
		}
	}
	return nil, ""
}

func gunzip(b []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("unpack kernel configuration: %w", err)
	}
	return io.ReadAll(io.LimitReader(r, maxKernelConfig))
}

// parseKernelConfig reads the lines "CONFIG_NAME=value" of a kernel's .config
// into name (without CONFIG_) and value (y, m, a number, or a string without its
// quotes). Options that are "not set" are not in the result.
func parseKernelConfig(text string) map[string]string {
	config := make(map[string]string)
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		name, prefixed := strings.CutPrefix(name, "CONFIG_")
		if !ok || !prefixed || name == "" || strings.ContainsAny(name, " \t#") || value == "n" {
			continue
		}
		if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
			value = value[1 : len(value)-1]
		}
		config[name] = value
	}
	return config
}

// readModules finds out which modules are loaded, compiled in, or can be loaded.
func readModules(root fs.FS, release string) (loaded, loadable, builtin map[string]bool) {
	loaded, loadable, builtin = make(map[string]bool), make(map[string]bool), make(map[string]bool)
	if b, err := fs.ReadFile(root, "proc/modules"); err == nil {
		for line := range strings.Lines(string(b)) {
			name, _, _ := strings.Cut(line, " ")
			loaded[moduleName(name)] = true
		}
	}
	// Compiled-in modules with parameters are here too: good enough, they work.
	if entries, err := fs.ReadDir(root, "sys/module"); err == nil {
		for _, e := range entries {
			loaded[moduleName(e.Name())] = true
		}
	}
	for _, dir := range []string{"lib/modules/", "usr/lib/modules/"} {
		moduleList(root, dir+release+"/modules.dep", loadable)
		moduleList(root, dir+release+"/modules.builtin", builtin)
	}
	return loaded, loadable, builtin
}

// moduleList adds the modules of a file whose lines start with a module's path,
// such as "kernel/fs/overlayfs/overlay.ko.xz: kernel/...".
func moduleList(root fs.FS, name string, into map[string]bool) {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return
	}
	for line := range strings.Lines(string(b)) {
		file, _, _ := strings.Cut(strings.TrimSpace(line), ":")
		base, _, ok := strings.Cut(path.Base(file), ".ko")
		if ok && base != "" {
			into[moduleName(base)] = true
		}
	}
}

// moduleName writes a module's name as the kernel does, with underscores.
func moduleName(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "-", "_") }
