// Softmax cross-entropy: loss and gradient in one pass over the logits, each read once and each gradient written once (SPEC 1).
//
// Compiled once per variant. DTYPE is that of logits and gradient; REGIME says where a row lives between the read and the write:
//   TILE      short rows: a tile of them in shared memory, copied flat so that accesses are coalesced, a thread a row
//   WARP      in the registers of a warp, VALUES a thread
//   BLOCK     in the registers of a block, VALUES a thread
//   SHARED    in the shared memory of a block
//   CLUSTER   in the shared memory of a cluster of blocks
//   TWO_READ  nowhere: a block reads the row twice
// GENERAL is 1 where targets may be smoothed or soft, or classes have scales of their own.
//
// A block takes chunks of tiles of rows in turn. Sums over a row have an order that C and the row's alignment decide, those over rows one
// that the number of rows decides, whatever the grid: the last block adds the chunks' sums up.
#define TILE 0
#define WARP_ROWS 1
#define BLOCK_ROW 2
#define SHARED_ROW 3
#define CLUSTER_ROW 4
#define TWO_READ 5

#include "softmax.cuh"
#if REGIME == TILE
#include "tile_rows.cuh"
#else
#include "slot_rows.cuh"
#endif

// Adds up the chunks' sums, in the last block of the grid.
DEVICE void finish(const CrossEntropyArgs& args, u32* flag, double* scratch) {
    if (!last_block(args.ticket, flag)) return;
    const double sum = sum_of_partials(args.partials, args.chunks, scratch);
    if (thread_index() == 0 && args.loss) store(args.loss, static_cast<float>(sum));
}

KERNEL(cross_entropy, CrossEntropyArgs) {
    SHARED(TallyScratch, tally_scratch, 1);
    SHARED(double, scratch, 2 * MOST_WARPS);
    SHARED(TeamScratch, team_scratch, 1);
    SHARED(u32, flag, 1);
    const Divisors divisors = divisors_of(args, tally_scratch);
    u32 turn = 0;
    for (i64 chunk = place_in_grid(); chunk < args.chunks; chunk += places_in_grid()) {
        const i64 end = minimum(args.tiles, (chunk + 1) * args.chunk_tiles);
        double loss = 0.0;
        for (i64 tile = chunk * args.chunk_tiles; tile < end; ++tile) {
            loss += take_tile(args, tile * args.tile_rows, divisors, team_scratch);
        }
        if (args.from_saved) continue;
        const double sum = sum_of_block(loss, scratch + turn * MOST_WARPS);
        turn ^= 1;
        if (stores_for_team()) store(args.partials + chunk, sum);
    }
    leave_team();
    if (!args.from_saved) finish(args, flag, scratch);
}
