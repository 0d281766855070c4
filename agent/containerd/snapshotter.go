package containerd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	snapshotterOverlay = "overlayfs"
	snapshotterNative  = "native"
)

// chooseSnapshotter returns the snapshotter to use and a warning to show if it is
// not the one that was asked for. overlayfs ("" means it too) gives way to native,
// which copies every layer whole, where probe says that it does not work; but not
// when it already holds images and containers, which would then be lost to view.
// A disk that is full says nothing about overlayfs: what is there has to run, and
// the kubelet needs containerd to make space.
// Names that are not built in need a template that adds them as a proxy plugin.
func chooseSnapshotter(asked string, templated, overlayInUse bool, probe func() error) (name, warning string, err error) {
	switch asked {
	case "", snapshotterOverlay:
		perr := probe()
		if perr == nil {
			return snapshotterOverlay, "", nil
		}
		if overlayInUse && (errors.Is(perr, unix.ENOSPC) || errors.Is(perr, unix.EDQUOT)) {
			return snapshotterOverlay, fmt.Sprintf("overlayfs could not be tried (%v): going on with it", perr), nil
		}
		if overlayInUse {
			return "", "", fmt.Errorf("snapshotter overlayfs holds the images of this machine but cannot be used now: %w; "+
				"see that the kernel has overlayfs and that the data directory is on the file system it was on", perr)
		}
		return snapshotterNative, fmt.Sprintf("overlayfs cannot be used here (%v): images are unpacked by copying each layer, "+
			"which takes several times the space; put the data directory on ext4 or xfs", perr), nil
	case snapshotterNative:
		return snapshotterNative, "", nil
	default:
		if templated {
			return asked, "", nil
		}
		return "", "", fmt.Errorf("snapshotter %q is not built in: choose overlayfs or native, or add it as a proxy plugin in %s", asked, templateFile)
	}
}

// snapshotterInUse reports whether a snapshotter has its database below root.
func snapshotterInUse(root, name string) bool {
	_, err := os.Stat(filepath.Join(snapshotterRoot(root, name), "metadata.db"))
	return err == nil
}

func snapshotterRoot(root, name string) string {
	return filepath.Join(root, "io.containerd.snapshotter.v1."+name)
}

// probeOverlay makes the kind of mount that containers get below dir, with two
// lower directories, and writes through it: nothing less tells whether the file
// system can be the upper layer (an overlayfs or a tmpfs without xattrs cannot).
func probeOverlay(dir string) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("probe overlayfs: %w", err)
	}
	tmp, err := os.MkdirTemp(dir, ".probe-*")
	if err != nil {
		return fmt.Errorf("probe overlayfs: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	p := func(name string) string { return filepath.Join(tmp, name) }
	for _, name := range []string{"lower1", "lower2", "upper", "work", "merged"} {
		if err := os.Mkdir(p(name), 0o700); err != nil {
			return fmt.Errorf("probe overlayfs: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(p("lower1"), "file"), nil, 0o600); err != nil {
		return fmt.Errorf("probe overlayfs: %w", err)
	}
	opts := fmt.Sprintf("lowerdir=%s:%s,upperdir=%s,workdir=%s", p("lower2"), p("lower1"), p("upper"), p("work"))
	if strings.Contains(strings.TrimPrefix(tmp, "/"), ":") {
		return fmt.Errorf("probe overlayfs: the data directory %s has a colon in its name, which separates overlayfs layers", dir)
	}
	if err := unix.Mount("overlay", p("merged"), "overlay", 0, opts); err != nil {
		return fmt.Errorf("probe overlayfs below %s: mount: %w", dir, err)
	}
	// Removing a file of a lower layer needs whiteouts in the upper one.
	rerr := os.Remove(filepath.Join(p("merged"), "file"))
	if uerr := unix.Unmount(p("merged"), unix.MNT_DETACH); uerr != nil {
		return fmt.Errorf("probe overlayfs below %s: unmount: %w", dir, uerr)
	}
	if rerr != nil {
		return fmt.Errorf("probe overlayfs below %s: write: %w", dir, rerr)
	}
	return nil
}
