package memory

import (
	"slices"
	"strings"
	"testing"
)

func TestProgramAreas(t *testing.T) {
	t.Parallel()
	const maps = `00400000-05000000 r-xp 00000000 fe:00 131 /usr/local/bin/limpet
05000000-0b000000 r--p 04c00000 fe:00 131 /usr/local/bin/limpet
0b000000-0b400000 rw-p 0ac00000 fe:00 131 /usr/local/bin/limpet
c000000000-c00a000000 rw-p 00000000 00:00 0
7f00-8f00 r-xp 00000000 fe:00 99 /usr/lib/libc.so.6
9f00-af00 r--s 00000000 fe:00 131 /usr/local/bin/limpet
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
`
	got, err := programAreas(strings.NewReader(maps), "/usr/local/bin/limpet")
	want := []area{{0x400000, 0x5000000}, {0x5000000, 0xb000000}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("programAreas = %x, %v; want %x", got, err, want)
	}
	for _, bad := range []string{"xyz r-xp 0 fe:00 131 /x", "2000-1000 r-xp 0 fe:00 131 /x"} {
		if areas, err := programAreas(strings.NewReader(bad), "/x"); err == nil {
			t.Errorf("programAreas(%q) = %v without an error", bad, areas)
		}
	}
}

// The program goes on after its pages were unmapped.
func TestReleaseProgram(t *testing.T) {
	if err := releaseProgram(); err != nil {
		t.Fatal(err)
	}
	if s := strings.Repeat("limpet", 2); s != "limpetlimpet" {
		t.Error(s)
	}
}
