package hostcheck

import (
	"io/fs"
	"reflect"
	"testing"
	"testing/fstest"
)

const (
	mountsV2 = "23 1 253:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n" +
		"31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
	mountsHybrid = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n" +
		"32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
		"35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
		"40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n" +
		"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
	rootStatus = "Name:\tlimpet\nCapEff:\t000001ffffffffff\nCapBnd:\t000001ffffffffff\n"
)

func file(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }

func TestDetectReadsFiles(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		root fstest.MapFS
		want Host
	}{
		"cgroup v2 under systemd": {
			root: fstest.MapFS{
				"proc/self/mountinfo":              file(mountsV2),
				"proc/self/status":                 file(rootStatus),
				"proc/self/uid_map":                file("         0          0 4294967295\n"),
				"sys/fs/cgroup/cgroup.controllers": file("cpuset cpu io memory pids\n"),
				"run/systemd/system":               {Mode: fs.ModeDir | 0o755},
			},
			want: Host{
				Cgroup:      Cgroup{Version: 2, Controllers: []string{"cpuset", "cpu", "io", "memory", "pids"}},
				HasSysAdmin: true, HasNetAdmin: true, HasSysResource: true, SystemdIsInit: true,
			},
		},
		"hybrid without CAP_SYS_RESOURCE": {
			root: fstest.MapFS{
				"proc/self/mountinfo":                      file(mountsHybrid),
				"proc/self/status":                         file("CapEff:\t000001fffeffffff\nCapBnd:\t000001fffeffffff\n"),
				"proc/self/uid_map":                        file("0 0 4294967295\n"),
				"sys/fs/cgroup/unified/cgroup.controllers": file("hugetlb\n"),
			},
			want: Host{
				Cgroup:      Cgroup{Version: 1, Hybrid: true, Controllers: []string{"cpu", "cpuacct", "memory"}, UnifiedControllers: []string{"hugetlb"}},
				HasSysAdmin: true, HasNetAdmin: true,
			},
		},
		"user namespace, no cgroups": {
			root: fstest.MapFS{
				"proc/self/mountinfo": file("23 1 253:0 / / rw - ext4 /dev/vda rw\n"),
				"proc/self/status":    file("CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n"),
				"proc/self/uid_map":   file("0 1000 1\n1 100000 65536\n"),
			},
			want: Host{InUserNamespace: true},
		},
		"kernel without user namespaces": {
			root: fstest.MapFS{
				"proc/self/mountinfo":              file(mountsV2),
				"proc/self/status":                 file(rootStatus),
				"sys/fs/cgroup/cgroup.controllers": file(""),
			},
			want: Host{
				Cgroup:      Cgroup{Version: 2, Controllers: []string{}},
				HasSysAdmin: true, HasNetAdmin: true, HasSysResource: true,
			},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := detect(tt.root)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("detect:\n got %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestDetectFailsWithoutProc(t *testing.T) {
	t.Parallel()
	if _, err := detect(fstest.MapFS{}); err == nil {
		t.Fatal("no error although /proc/self/mountinfo is missing")
	}
	_, err := detect(fstest.MapFS{"proc/self/mountinfo": file(""), "proc/self/status": file("CapEff:\txyz\n")})
	if err == nil {
		t.Fatal("no error although CapEff is not a number")
	}
}

func TestCgroupFromMountsSeesTheTopMount(t *testing.T) {
	t.Parallel()
	// A test node re-mounts /sys and version 1 hierarchies over the host's.
	mounts := parseMountinfo(mountsV2 + mountsHybrid)
	if got := cgroupFromMounts(mounts); got.Version != 1 || !got.Has("memory") {
		t.Errorf("version 1 mounted over version 2: got %+v", got)
	}
	mounts = parseMountinfo(mountsHybrid + mountsV2)
	if got := cgroupFromMounts(mounts); got.Version != 2 || got.Hybrid || len(got.Controllers) != 0 {
		t.Errorf("version 2 mounted over version 1: got %+v", got)
	}
}

func TestMountOf(t *testing.T) {
	t.Parallel()
	mounts := parseMountinfo("1 0 8:1 / / rw - ext4 /dev/a rw\n" +
		"2 1 8:2 / /var/lib rw,noexec - xfs /dev/b rw\n" +
		"3 1 8:3 / /var/lib/my\\040data ro - btrfs /dev/c ro\n" +
		"garbage\n4 1 - x\n")
	for path, want := range map[string]string{
		"/var/lib":               "/dev/b",
		"/var/library":           "/dev/a",
		"/var/lib/limpet/server": "/dev/b",
		"/var/lib/my data/x":     "/dev/c",
		"/":                      "/dev/a",
	} {
		if m, ok := mountOf(mounts, path); !ok || m.Source != want {
			t.Errorf("mountOf(%q) = %q, %v; want %q", path, m.Source, ok, want)
		}
	}
}

func TestDetectHere(t *testing.T) {
	t.Parallel()
	h, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	if h.KernelVersion == "" || h.NoFileHardLimit == 0 {
		t.Errorf("empty kernel version or limit: %+v", h)
	}
	t.Logf("%+v", h)
}

func BenchmarkDetect(b *testing.B) {
	for b.Loop() {
		if _, err := Detect(); err != nil {
			b.Fatal(err)
		}
	}
}
