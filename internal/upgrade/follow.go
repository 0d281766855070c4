package upgrade

import (
	"context"
	"fmt"
	"time"
)

// followEvery is how often Await looks at the journal.
const followEvery = time.Second

// Await follows the operation with the id until it has ended, and starts its
// guard again should it be gone. tell gets the journal at first and after every
// change; nil: nobody does.
func Await(ctx context.Context, dataDir, id string, tell func(Journal)) (Journal, error) {
	var last Journal
	for looks := 0; ; looks++ {
		j, err := Load(dataDir)
		if err != nil {
			return last, err
		}
		if j.ID != id {
			return last, fmt.Errorf("another operation has begun: %s", j.Sentence())
		}
		if tell != nil && (looks == 0 || j.Phase != last.Phase || j.Step != last.Step || j.Unwell != last.Unwell) {
			tell(j)
		}
		last = j
		if j.Final() {
			return j, nil
		}
		if looks%10 == 9 && !guarded(dataDir) {
			if err := launch(ctx, dataDir, j); err != nil && ctx.Err() == nil {
				return j, err
			}
		}
		select {
		case <-time.After(followEvery):
		case <-ctx.Done():
			return j, context.Cause(ctx)
		}
	}
}
