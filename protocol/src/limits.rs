//! Every maximum in one place, each with its reason. A length is checked against one of these before anything is
//! allocated for it.

/// Bytes of a block, the unit of checksum **[format]**: small enough that a 4 KiB read wastes little, large enough
/// that a 64 MiB chunk's CRCs fit 4 KiB.
pub const BLOCK_BYTES: usize = 64 << 10;
/// Bytes of payload in a data frame: below it the per-packet work shows, above it pipelining along the chain suffers.
pub const PACKET_BYTES: usize = 1 << 20;
/// Default bytes of a chunk, after the Google File System paper (§2.5).
pub const CHUNK_BYTES_DEFAULT: u64 = 64 << 20;
/// Smallest chunk size a file may ask for: below it metadata outweighs data.
pub const CHUNK_BYTES_MIN: u64 = 1 << 20;
/// Largest chunk size: repair of one chunk must stay a matter of seconds.
pub const CHUNK_BYTES_MAX: u64 = 256 << 20;
/// Chunks up to this length live in the index as blobs: one group-committed sync covers many.
pub const SMALL_CHUNK_BYTES: u64 = 128 << 10;
/// Replicas of a file when nothing is said: any one disk may fail while another is being replaced.
pub const REPLICAS_DEFAULT: u8 = 3;
/// Most replicas of a file.
pub const REPLICAS_MAX: u8 = 10;
/// Largest file: offsets stay positive in signed 64-bit arithmetic everywhere.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// Bytes of a whole path, as POSIX `PATH_MAX`.
pub const PATH_BYTES_MAX: usize = 4096;
/// Bytes of one name, as POSIX `NAME_MAX`.
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes of all extended attributes of a file, names and values, as Linux's largest value (`XATTR_SIZE_MAX`).
pub const ATTRIBUTES_BYTES_MAX: usize = 64 << 10;
/// Components of a path: bounds each walk to the root.
pub const DEPTH_MAX: usize = 128;
/// Symbolic links that are followed on the way down one path, as on Linux: more are taken for a circle.
pub const LINKS_MAX: usize = 40;
/// Names looked up on the way down one path, those of its links with it: bounds what a command costs the masters.
pub const WALK_NAMES_MAX: usize = 1024;
/// Entries in one page of a listing.
pub const LIST_PAGE_MAX: usize = 1000;

/// Bytes of a message and payload accepted before the peer has proved who it is.
pub const HELLO_BYTES_MAX: usize = 4 << 10;
/// Bytes of a control message: a batch of 1,000 extents fits.
pub const MESSAGE_BYTES_MAX: usize = 256 << 10;
/// Bytes of a frame's payload.
pub const PAYLOAD_BYTES_MAX: usize = 4 << 20;
/// Bytes of a Raft message: one entry of every client in a batch, below the payload limit by a margin for headers.
pub const RAFT_BATCH_BYTES_MAX: usize = 2 << 20;
/// Bytes one read request may ask for: its answer is one frame.
pub const READ_BYTES_MAX: usize = PAYLOAD_BYTES_MAX;

/// Rows changed by one batch command (extents, seals): keeps one log entry below [`MESSAGE_BYTES_MAX`].
pub const BATCH_ROWS_MAX: usize = 1000;
/// Extents one command copies by reference: a few rows each, so that the entry takes the masters some ten
/// milliseconds. A copy of more is made in steps.
pub const COPY_EXTENTS_MAX: usize = 4000;
/// Snapshots in all: every change asks which of them see what it changes, so that their list stays short.
pub const SNAPSHOTS_MAX: usize = 1000;
/// The name under which a directory's snapshots are read. Nothing else can have it.
pub const SNAPSHOT_DIRECTORY: &str = ".snapshot";
/// Servers a copy order names to copy from: if none of so many gives the chunk, another order will name others.
pub const COPY_SOURCES_MAX: usize = 4;
/// Copy orders in one beat's answer: with their sources they fit a message beside the drop orders.
pub const COPY_ORDERS_MAX: usize = 64;
/// Extents that one large chunk takes the place of: with the right to read each of them, an order fits a message beside
/// the others.
pub const MERGE_PIECES_MAX: usize = 256;
/// Copies of each that an order names to read: who finds none of them good is ordered anew.
pub const MERGE_SOURCES_MAX: usize = 2;
/// Large chunks that take the place of small ones and are under way at one time, in the whole cluster: new ones begin
/// when the files that hold them up are known.
pub const MERGES_MAX: usize = 16;
/// Copies of such chunks under way on one server, and orders for them in one beat's answer.
pub const MERGES_PER_SERVER_MAX: usize = 2;
/// Digests in one inventory report: with the beat before it they stay below 1 KiB, so that a thousand idle servers cost a
/// master 2 MB a second.
pub const INVENTORY_DIGESTS: usize = 64;
/// Copies in one page of a bucket: a common bucket of a million copies fits one page, and a page fits a message.
pub const INVENTORY_PAGE: usize = 4096;
/// Chunks granted by one command.
pub const GRANT_CHUNKS_MAX: usize = 16;
/// Commands of one session in flight **[format]**: its reply slots.
pub const REPLY_SLOTS: u64 = 64;
/// Hops of a write chain.
pub const CHAIN_HOPS_MAX: usize = REPLICAS_MAX as usize;
/// Entries of a "what was tried" list in an error: an error stays readable.
pub const ERROR_DETAILS_MAX: usize = 64;
/// Bytes of a text in an error: a refusal must fit the small frames of a handshake.
pub const ERROR_TEXT_BYTES_MAX: usize = 1024;

/// Milliseconds until a peer must have proved who it is.
pub const HANDSHAKE_MS_MAX: u64 = 5_000;
/// Milliseconds between keep-alives on an idle connection, below every idle time-out.
pub const KEEP_ALIVE_MS: u64 = 15_000;
/// Milliseconds without a single byte after which a connection is dropped.
pub const IDLE_MS_MAX: u64 = 60_000;
/// Milliseconds sent bytes may stay unacknowledged by the peer's kernel before the connection is dropped.
pub const UNACKNOWLEDGED_MS_MAX: u32 = 10_000;
/// Connections of clients one server accepts.
pub const CLIENT_CONNECTIONS_MAX: usize = 8192;
/// Connections of operators one server accepts.
pub const OPERATOR_CONNECTIONS_MAX: usize = 256;
/// Connections of chunkservers one server accepts: a chain has one for each stream's hop.
pub const CHUNKSERVER_CONNECTIONS_MAX: usize = 4096;
/// Connections of masters one server accepts: each master has a handful.
pub const MASTER_CONNECTIONS_MAX: usize = 256;
/// Connections that may be in their handshake at one time.
pub const HANDSHAKES_MAX: usize = 256;
/// Streams one connection carries at one time.
pub const STREAMS_PER_CONNECTION_MAX: usize = 1024;
/// Frames queued for the write half of one connection.
pub const SEND_QUEUE_FRAMES: usize = 64;

/// Milliseconds a session lives without a command.
pub const SESSION_MS: u64 = 30 * 60 * 1000;
/// Milliseconds an upload lives without its writer renewing the lease.
pub const UPLOAD_LEASE_MS: u64 = 60_000;
/// Milliseconds a resumable upload is kept without a word of its client: until the next day's work.
pub const RESUME_MS: u64 = 24 * 60 * 60 * 1000;
/// Longest such time: what nobody resumes takes space.
pub const RESUME_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1000;
/// Milliseconds a write lease lasts at most without renewal: a writer that died holds others up no longer.
pub const WRITE_LEASE_MS_MAX: u64 = 60_000;
/// Milliseconds a token is valid.
pub const TOKEN_MS: u64 = 10 * 60 * 1000;
/// Milliseconds a connection ticket is valid.
pub const TICKET_MS: u64 = 60 * 60 * 1000;
/// Milliseconds what was removed stays in the trash: a night's sleep after the mistake.
pub const TRASH_MS: u64 = 24 * 60 * 60 * 1000;
/// Milliseconds a copy no row names is kept: an operator sees the alarm on a working day.
pub const UNKNOWN_MS: u64 = 24 * 60 * 60 * 1000;
/// Longest maintenance of a chunkserver, milliseconds: what takes longer is a drain.
pub const MAINTENANCE_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1000;
/// Disks of one chunkserver that are told of.
pub const DISKS_MAX: usize = 256;
/// Copies on failing disks told of with one report.
pub const LEAVING_PAGE: usize = 256;
/// Chunks a plan names as examples.
pub const PLAN_EXAMPLES_MAX: usize = 8;
