/* SPDX-License-Identifier: Apache-2.0 */
/* internal.h - what the files of kernel/broker share. Nobody outside this folder (but its unit tests) includes it.
 *
 * WHO OWNS WHAT
 *   - Topics, groups and filters are immutable objects with a reference count. A change makes a new object and puts
 *     it in the table in place of the old one; what has to survive the change (queues, held pulls, counters) hangs
 *     in a `live` part that the versions share.
 *   - Each lane keeps a cache of the topics and groups it used, by name, with references. `gen` of a table grows
 *     when an object in it is replaced or removed (not when one is added); a lane that sees another gen appends what
 *     it has gathered and empties its cache. So a request costs no lock to find its topic and its group.
 *   - Jobs are handed to a lane through its inbox (zb_lane_post); they run on the lane's thread in turn_end or woken.
 *
 * LOCKING (whole folder). Locks are leaves unless said otherwise here; no plugin, no zk_answer, zk_tell or zk_work
 * is called with one held. Order where two are held: hold queue lock -> hold lock; live lock and table locks are
 * never nested. */
#ifndef ZB_INTERNAL_H
#define ZB_INTERNAL_H
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "broker/broker.h"
#include "config/node.h"
#include "core/core.h"
#include "plugin/instance.h"
#include "remoting/remoting.h"
#include "zarya/bits.h"
#include "zarya/zarya.h"
#include "zl/buf.h"
#include "zl/codec.h"
#include "zl/json.h"
#include "zl/record.h"
#include "zl/tables.h"
#include "zl/text.h"

/* ---- response and request codes ---- */
#define ZB_SUCCESS 0
#define ZB_SYSTEM_ERROR 1
#define ZB_SYSTEM_BUSY 2
#define ZB_FLUSH_DISK_TIMEOUT 10
#define ZB_SLAVE_NOT_AVAILABLE 11
#define ZB_FLUSH_SLAVE_TIMEOUT 12
#define ZB_MESSAGE_ILLEGAL 13
#define ZB_SERVICE_NOT_AVAILABLE 14
#define ZB_NO_PERMISSION 16
#define ZB_TOPIC_NOT_EXIST 17
#define ZB_PULL_NOT_FOUND 19
#define ZB_PULL_RETRY_IMMEDIATELY 20
#define ZB_PULL_OFFSET_MOVED 21
#define ZB_QUERY_NOT_FOUND 22
#define ZB_SUBSCRIPTION_PARSE_FAILED 23
#define ZB_SUBSCRIPTION_NOT_EXIST 24
#define ZB_SUBSCRIPTION_NOT_LATEST 25
#define ZB_SUBSCRIPTION_GROUP_NOT_EXIST 26
#define ZB_FILTER_DATA_NOT_EXIST 27
#define ZB_FILTER_DATA_NOT_LATEST 28
#define ZB_INVALID_PARAMETER 29

#define ZB_FAQ "\nSee https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details."
#define ZB_TEMPLATE_TOPIC "TBW102"
#define ZB_RETRY_PREFIX "%RETRY%"
#define ZB_DLQ_PREFIX "%DLQ%"
#define ZB_NAME_MAX 512u    /* no name on the wire is longer; longer ones are refused unseen */
#define ZB_MAX_QUEUES 65536 /* of one topic */
#define ZB_MAX_SUSPEND_MS 3600000

/* ---- settings ---- */
struct zb_settings {
    struct zr_str region_id, trace_topic;
    int64_t default_topic_queues, broker_permission, max_message_size, short_polling_ms, flush_offset_ms;
    int64_t max_transfer_count, max_transfer_bytes, sync_flush_timeout_ms, slave_timeout_ms, in_sync_replicas, channel_expired_ms,
        client_scan_ms, filter_clean_ms, bloom_consumers, bloom_error;
    uint8_t calc_bits;
    int64_t revive_queues, start_accept_ms, offset_version_step, role;
    int64_t max_topics, max_groups, max_progress, max_held, max_held_peer, max_clients, max_peer_groups;
    uint8_t auto_create_topic, auto_create_group, create_sys_group, long_polling, slave_read, lite_pull,
        property_filter;
    uint8_t trace_topic_enable, cluster_topic, broker_topic, trace_on, timer_wheel, reject_transaction,
        reject_pull_consumer;
    uint8_t server_side_reset, cold_control, broadcast_store;
    int64_t cold_group_bytes, cold_all_bytes, broadcast_expire_s, broadcast_expire_max_s;
};
#define ZB_ROLE_ASYNC_MASTER 0
#define ZB_ROLE_SYNC_MASTER 1
#define ZB_ROLE_SLAVE 2
#define ZB_SET(field) __atomic_load_n(&zb.set.field, __ATOMIC_RELAXED)
void zb_settings_default(struct zb_settings *ret); /* from the rows; for processes (tests) without a configuration */
zr_status zb_settings_check(struct zr_str key, struct zr_str value); /* what change would answer */
zr_status zb_settings_change(struct zr_str key, struct zr_str value);
void zb_settings_each(int32_t (*each)(void *ctx, struct zr_str key, struct zr_str value), void *ctx);

/* ---- a table by name; values carry their key. Not thread-safe. ---- */
struct zb_slot {
    uint64_t hash;
    struct zr_str key;
    void *value;
};
struct zb_map {
    struct zb_slot *slots;
    uint64_t cap, n;
};
static inline uint64_t zb_hash(struct zr_str s)
{
    return zl_hash(s.ptr, s.len);
}
void *zb_map_get(const struct zb_map *m, uint64_t hash, struct zr_str key);
zr_status zb_map_put(struct zb_map *m, uint64_t hash, struct zr_str key,
                     void *value); /* in place of one of the same key */
void *zb_map_del(struct zb_map *m, uint64_t hash, struct zr_str key);
void zb_map_free(struct zb_map *m);
/* Steps through: *at begins at 0; NULL at the end. */
void *zb_map_next(const struct zb_map *m, uint64_t *at);

/* ---- jobs for a lane ---- */
struct zb_lane;
struct zb_job {
    struct zb_job *next;
    void (*run)(struct zb_lane *lane, struct zb_job *job);
};
void zb_lane_post(struct zb_lane *lane, struct zb_job *job); /* any thread */
void zb_lane_push(struct zb_lane *lane, struct zb_job *job); /* the same without waking the lane */

/* ---- a changed row of a document ---- */
struct zb_row {
    struct zb_row *next;
    uint64_t seq;
    struct zr_str name;
    uint64_t group_len; /* 0: an entry; else name is "group@topic", what a group may not consume */
};

/* ---- topics ---- */
struct zb_pull;
struct zb_queue { /* one queue of a topic; lives as long as the topic's live part */
    struct zb_queue *next;
    _Atomic(struct zr_queue *) handle;
    int32_t id;
    _Atomic uint32_t n_held;
    pthread_mutex_t lock;  /* guards the lists of held pulls */
    struct zb_pull *heads; /* the first of each filter */
    uint32_t n_heads;
};
#define ZB_WINDOW 7 /* samples of ten seconds: a minute between first and last */
struct zb_rate {    /* guarded by zb.stats_lock; filled by the sampler */
    int64_t at_ms[ZB_WINDOW], count[ZB_WINDOW], bytes[ZB_WINDOW];
    uint32_t n, next;
};
struct zb_live {
    _Atomic uint32_t refs;
    _Atomic uint32_t announcing; /* sends wait in `waiting` until the registries know the topic */
    pthread_mutex_t lock;        /* guards queues (list) and waiting */
    struct zb_queue *queues;
    struct zb_deferred *waiting, **waiting_end;
    _Atomic int64_t put_count, put_bytes, get_count, get_bytes;
    struct zb_rate put, get;
};
struct zb_topic {
    _Atomic uint32_t refs;
    uint32_t n_attributes;
    struct zr_str name, more; /* more: members of its JSON that only others know */
    uint64_t hash;
    int32_t read_queues, write_queues, perm, sys_flag;
    uint32_t n_slots;
    uint8_t multi_tag, order, system, batch_cq, compaction;
    uint8_t stored_hooks; /* some hook wants to see what is stored in it */
    struct zr_field *attributes;
    struct zb_live *live;
    _Atomic(struct zb_queue *) *slots; /* by queue id, max(read, write) of them, made on demand */
};
struct zb_topic *zb_topic_ref(struct zb_topic *topic);
void zb_topic_unref(struct zb_topic *topic);
struct zb_topic *zb_topic_get(struct zr_str name); /* a reference, or NULL */
struct zb_topic *zb_lane_topic(struct zb_lane *lane,
                               struct zr_str name); /* borrowed until zb_lane_fresh; lane's thread */
struct zb_queue *zb_topic_queue(struct zb_topic *topic, int32_t queue_id); /* NULL: no such queue, or no memory */
struct zr_queue *zb_queue_handle(struct zb_topic *topic, struct zb_queue *queue);
/* Puts a topic as given. *ret_new: it was not there. ret may be NULL, else gets a reference. Not announced, not
 * persisted. */
zr_status zb_topic_store(const struct zr_topic *conf, struct zb_topic **ret, uint32_t *ret_new);
/* Makes a topic of plain settings unless it is there. */
zr_status zb_topic_ensure(struct zr_str name, int32_t queues, int32_t perm, int32_t sys_flag, uint32_t order,
                          struct zb_topic **ret, uint32_t *ret_new);
/* Auto-creation by a send, from a template topic. ZR_ENOENT: rules forbid it. */
zr_status zb_topic_from_template(struct zr_str name, struct zr_str template_name, int32_t queues, int32_t sys_flag,
                                 struct zb_topic **ret, uint32_t *ret_new);
zr_status zb_topic_remove(struct zr_str name); /* worker */
/* All topics, each with a reference; ended by zb_topics_free. NULL: memory ran out. */
struct zb_topic **zb_topics_all(uint32_t *ret_n);
void zb_topics_free(struct zb_topic **topics, uint32_t n);
void zb_topic_view(const struct zb_topic *topic, struct zr_topic *ret);
uint32_t zb_topic_is_system(struct zr_str name);
uint32_t zb_topic_unsendable(struct zr_str name);
void zb_topics_bump(void); /* data version + 1 */
void zb_topics_print(struct zl_buf *out);
void zb_topics_print_rows(struct zl_buf *out, const struct zb_row *rows);
zr_status zb_topics_load(uint32_t *ret_from, uint32_t *ret_journal); /* ZB_FROM_..., as the next two */
zr_status zb_topics_make_system(void);
void zb_topics_close(void);
/* ---- what the tables have in common (table.c) ---- */
struct zr_str zb_text_put(char **at, struct zr_str s); /* copies s to *at, which moves on */
void zb_version_next(struct zr_data_version *v);
void zb_version_read(const struct zl_json *node, struct zr_data_version *ret);
struct zb_table_doc {                                       /* a document of entries under one member */
    const char *name, *member, *what, *without, *limit_name; /* what, without, limit_name: for its refusals */
    int64_t limit;
    zr_status (*entry)(const struct zl_json *node);
    void (*rest)(const struct zl_json *root); /* of the document; may be NULL */
    const char *const *known;                 /* members of the document; NULL-ended */
    struct zl_buf *more;                      /* gets the others, as zl_jw_members takes them */
    struct zr_data_version *version;
    /* Of a document with a journal; NULL: it has none. */
    uint32_t document;
    uint32_t (*has)(struct zr_str name);
    void (*gone)(struct zr_str name);
    uint32_t *ret_journal; /* 1: there is one, which ends when the document is written */
};
/* Where the document came from; what is not in the first has to be found elsewhere. */
#define ZB_FROM_ITSELF 0u
#define ZB_FROM_BACKUP 1u  /* <name>.bak, one write older */
#define ZB_FROM_PART 2u    /* both are damaged: the beginning of one */
#define ZB_FROM_NOTHING 3u /* neither is there, or there is nothing in them */
/* Damage is told of and never raised; copies that are of no use are set aside. Raised: more than the limit, no memory. */
zr_status zb_table_load(const struct zb_table_doc *doc, uint32_t *ret_from);
/* Topics and groups that the documents (from: where they came from) may not speak of: from the queues and the offsets. 1:
 * some were made. */
uint32_t zb_topics_rebuild(uint32_t from);
uint32_t zb_groups_rebuild(void);
#define ZB_MORE_MAX (64u << 10) /* members of one entry that only others know; more than this are left out */
/* The text of Java's TopicConfig.toString(), for remarks. */
void zb_topic_text(const struct zb_topic *topic, char *to, uint64_t cap);

/* ---- subscription groups ---- */
struct zb_group {
    _Atomic uint32_t refs;
    uint32_t n_attributes;
    struct zr_str name, retry_policy, subscriptions, more; /* the latter three as JSON text; more: as in zb_topic */
    uint64_t hash;
    struct zr_field *attributes;
    int64_t broker_id, slow_broker_id;
    int32_t retry_queues, retry_max_times, sys_flag, consume_timeout_minute;
    uint8_t consume, from_min, broadcast, orderly, notify;
};
struct zb_group *zb_group_ref(struct zb_group *group);
void zb_group_unref(struct zb_group *group);
/* A reference; create: by the rules of auto-creation. */
struct zb_group *zb_group_get(struct zr_str name, uint32_t create);
struct zb_group *zb_lane_group(struct zb_lane *lane, struct zr_str name,
                               uint32_t create); /* borrowed, as zb_lane_topic */
zr_status zb_group_store(const struct zr_group *conf);
zr_status zb_group_remove(struct zr_str name);
struct zb_group **zb_groups_all(uint32_t *ret_n);
void zb_groups_free(struct zb_group **groups, uint32_t n);
void zb_group_view(const struct zb_group *group, struct zr_group *ret);
int32_t zb_group_forbidden(struct zr_str group, struct zr_str topic, int32_t value); /* value < 0: only asks */
void zb_groups_print(struct zl_buf *out);
void zb_groups_print_rows(struct zl_buf *out, const struct zb_row *rows);
zr_status zb_groups_load(uint32_t *ret_from, uint32_t *ret_journal);
zr_status zb_group_ensure(struct zr_str name); /* one of default settings, unless it is there */
zr_status zb_groups_make_system(void);
void zb_groups_close(void);

/* ---- consumer offsets ---- */
int64_t zb_offset_get(struct zr_str group, struct zr_str topic, int32_t queue_id);
/* ZR_EFULL: the table is full, or memory ran out. */
zr_status zb_offset_put(struct zr_str group, struct zr_str topic, int32_t queue_id, int64_t offset);
int64_t zb_offset_pulled(struct zr_str group, struct zr_str topic, int32_t queue_id);
int64_t zb_offset_reset_of(struct zr_str group, struct zr_str topic, int32_t queue_id); /* pending reset, -1 */
void zb_offset_reset(struct zr_str group, struct zr_str topic, int32_t queue_id, int64_t offset);
/* What a pull does before it reads: commits (if commit >= 0) and takes a pending reset (returned, -1: none). */
int64_t zb_offset_begin(struct zr_str group, struct zr_str topic, int32_t queue_id, int64_t commit,
                        uint32_t take_reset);
/* What it does after: remembers where the next one begins, counts what was given. */
void zb_offset_end(struct zr_str group, struct zr_str topic, int32_t queue_id, int64_t next, uint32_t messages,
                   uint64_t bytes);
void zb_offset_remove(struct zr_str group, struct zr_str topic);
void zb_offset_each(int32_t (*each)(void *ctx, struct zr_str group, struct zr_str topic, int32_t queue_id,
                                    int64_t offset),
                    void *ctx);
uint32_t zb_offset_rates(struct zr_str group, struct zr_str topic, struct zr_topic_stats *ret);
void zb_offsets_sample(int64_t now_ms);
void zb_offsets_print(struct zl_buf *out);
zr_status zb_offsets_load(uint32_t *ret_from);
uint32_t zb_offsets_dirty(void); /* 1 once for each change since the last call */
void zb_offsets_close(void);

/* ---- documents under config/ ---- */
#define ZB_DOC_TOPICS 0u
#define ZB_DOC_GROUPS 1u
#define ZB_DOC_OFFSETS 2u
#define ZB_DOC_FILTERS 3u
/* Has the document written by a worker, soon; several calls become one write. fn (may be NULL) is called once when a
 * write that began after this call ended, well or not, on any thread. */
void zb_doc_touch(uint32_t doc, void (*fn)(void *ctx, zr_status status), void *ctx);
/* The same, where no more than these rows changed: a large document's are kept in its journal first. */
void zb_doc_touch_rows(uint32_t doc, const struct zr_str *names, uint32_t n, void (*fn)(void *ctx, zr_status status), void *ctx);
void zb_doc_touch_pair(uint32_t doc, struct zr_str key, uint64_t group_len); /* what a group may not consume */
/* fn when every request until now is on the disk (at once, if it is), or could not be written. */
void zb_doc_when(uint32_t doc, void (*fn)(void *ctx, zr_status status), void *ctx);
zr_status zb_doc_write(uint32_t doc);      /* now, on this thread */
zr_status zb_doc_write_last(uint32_t doc); /* the same, and no journal is kept from here on */
uint32_t zb_doc_dirty(uint32_t doc);
struct zb_doc_print;
zr_status zb_doc_read_journal(uint32_t doc, struct zb_doc_print print, uint32_t which,
                              zr_status (*rows)(void *ctx, uint32_t known, struct zr_span rows), void *ctx, uint32_t *ret_known,
                              uint32_t *ret_any);
void zb_docs_open(void);
void zb_docs_close(void);

/* ---- announcements ---- */
/* Persists topics.json and tells every registry; fn once, on any thread, when both are done or a second passed.
 * n 0: all. */
void zb_announce(const struct zr_str *names, uint32_t n, void (*fn)(void *ctx, zr_status status), void *ctx);
/* A new topic that came by a send: the same, with live->announcing set meanwhile. */
void zb_announce_new(struct zb_topic *topic);
void zb_announce_removed(struct zr_str name);

/* ---- requests that wait ---- */
struct zb_deferred { /* a request kept beyond its call; one block of memory */
    struct zb_job job;
    struct zb_deferred *next;
    struct zr_request req;
    struct zb_lane *lane;
    zr_status (*handle)(struct zr_inst *inst, const struct zr_request *req);
    void *ctx;
};
struct zb_deferred *zb_request_keep(const struct zr_request *req); /* NULL: memory ran out */
void zb_request_free(struct zb_deferred *d);                       /* not its token */

/* ---- filters ---- */
struct zb_filter {
    _Atomic uint32_t refs;
    uint32_t is_tag;
    struct zr_str key; /* language 0x00 text 0x00 codes */
    uint64_t hash;
    const struct zr_filter_v1 *table;
    struct zr_prog *prog;
    struct zb_filter *older, *newer; /* order of use; guarded by the cache's lock */
};
/* ZR_OK with *ret NULL: everything matches. ZR_ENOTSUP: no filter of that language is loaded. ZR_EINVAL, ZR_EFULL:
 * text in why. */
zr_status zb_filter_get(struct zr_str language, struct zr_str text, const int32_t *codes, uint32_t n_codes,
                        struct zb_filter **ret, char *why, uint64_t cap);
struct zb_filter *zb_filter_ref(struct zb_filter *filter);
void zb_filter_unref(struct zb_filter *filter);
/* ZR_MATCH_ASK: the steps do not suffice to say (zarya/filter.h); what it takes is taken off them. */
uint32_t zb_filter_judge(const struct zb_filter *filter, struct zr_span properties, uint64_t *steps);
/* 1 also when the steps do not suffice: whoever is told looks for itself. */
uint32_t zb_filter_match(const struct zb_filter *filter, int64_t tags_code, const struct zr_span *properties, uint64_t *steps);
void zb_filters_close(void);

/* ---- filters as groups registered them (filterdata.c): config/consumerFilter.json ---- */
struct zb_sub;
void zb_filterdata_register(struct zr_str group, struct zb_sub *const *subs, uint32_t n); /* a heartbeat's */
void zb_filterdata_gone(struct zr_str group);                                             /* its last member left */
/* ZR_ENOENT: none is registered; ZR_EAGAIN: one older than version; ZR_ENOTSUP: its language's plugin is missing. */
zr_status zb_filterdata_get(struct zr_str group, struct zr_str topic, int64_t version, struct zb_filter **ret,
                            struct zr_bits *ret_bits);
struct zb_judge { /* of a message's bit map: one registration for its topic */
    struct zb_filter *filter; /* NULL: it cannot be judged here */
    struct zr_bits bits;
};
/* All registrations of a topic. How many; 0: none, more than cap, or they are not to be had. Else zb_filterdata_judged ends it. */
uint32_t zb_filterdata_judges(struct zr_str topic, struct zb_judge *judges, uint32_t cap);
void zb_filterdata_judged(struct zb_judge *judges, uint32_t n);
void zb_filterdata_print(struct zl_buf *out);
void zb_filterdata_load(void);
void zb_filterdata_close(void);

/* ---- bit maps of messages (bits.c) ---- */
extern const struct zr_bits_v1 zb_bits_table;
void zb_bits_open(void);
void zb_bits_of(struct zr_str group, struct zr_str topic, struct zr_bits *ret); /* after_ms is the caller's */
uint32_t zb_bits_fit(const struct zr_bits *b); /* has it the length and the number of positions that are made here? */
int64_t zb_bits_newest_ms(void); /* store time of the newest message that a map was made of */

/* ---- live clients ---- */
struct zb_peer { /* a session as the broker core knows it */
    _Atomic uint32_t refs;
    _Atomic uint32_t closed;
    struct zr_session *session; /* not owned: used only while open, or under a reference of someone's token */
    struct zb_member *members;  /* guarded by zb.clients_lock */
    uint64_t n_members;         /* the same */
    struct zb_pull *held;       /* guarded by the hold lock */
    int64_t n_held;             /* the same */
};
struct zb_sub { /* one subscription of a live group; immutable but for refs */
    _Atomic uint32_t refs;
    uint32_t n_tags, n_codes, class_filter;
    struct zr_str topic, text, type;
    struct zr_str *tags;
    int32_t *codes;
    int64_t version;
    struct zb_filter *filter; /* NULL: everything, or what compiled not (see bad) */
    uint32_t bad, is_tag;
    uint32_t missing, reserved; /* bad, because no filter of the language is loaded */
};
struct zb_members { /* a live group of consumers, or of producers */
    struct zr_str name;
    uint64_t hash;
    struct zb_member *first, *last;
    uint32_t n, consumers;
    uint32_t consume_type, model;
    const char *from_where;
    struct zb_map subs;
    int32_t fingerprint;
    uint32_t has_fingerprint;
};
struct zb_member {
    struct zb_member *prev, *next, *prev_of_peer, *next_of_peer;
    struct zb_member_key { /* by which zb.members finds it */
        struct zb_members *group;
        struct zb_peer *peer;
    } key;
    struct zr_str client_id;
    int64_t last_ms;
    int32_t language, version;
};
struct zb_peer *zb_peer_of(struct zr_session *session); /* lane's thread; made on demand; borrowed */
struct zb_peer *zb_peer_ref(struct zb_peer *peer);
void zb_peer_unref(struct zb_peer *peer);
struct zb_sub *zb_sub_new(const struct zr_subscription *conf); /* compiles; NULL: memory ran out */
void zb_sub_unref(struct zb_sub *sub);
/* One consumer entry of a heartbeat. subs: references are taken over; with_subs 0: only the member. */
struct zb_consumer {
    struct zr_str group, client_id;
    uint32_t consume_type, model;
    const char *from_where;
    struct zb_sub **subs;
    uint32_t n_subs, with_subs;
    int32_t language, version, fingerprint;
    uint32_t notify;
};
/* Registers; *ret_sub_changed: another fingerprint was known, or a short heartbeat met an unknown group. Tells
 * members. */
zr_status zb_consumer_register(struct zb_peer *peer, const struct zb_consumer *c, uint32_t *ret_sub_changed);
zr_status zb_producer_register(struct zb_peer *peer, struct zr_str group, struct zr_str client_id, int32_t language,
                               int32_t version);
uint32_t zb_peer_full(const struct zb_peer *peer); /* it is in as many groups as a connection may be */
void zb_client_unregister(struct zb_peer *peer, struct zr_str group, uint32_t consumers);
void zb_client_closed(struct zr_session *session); /* io; also drops its held pulls */
/* Consumer side of pull's checks. ret_sub gets a reference or stays NULL. ZR_ENOENT: nobody of the group is here. */
zr_status zb_consumer_find(struct zr_str group, struct zr_str topic, uint32_t *ret_model, uint32_t *ret_type,
                           struct zb_sub **ret_sub);
uint32_t zb_consumer_has(struct zr_str group, const struct zb_peer *peer);
/* The client id under which the peer is in the group, copied to text. 0: it is not, or no room. */
uint32_t zb_consumer_id(struct zr_str group, const struct zb_peer *peer, char *text, uint64_t cap, struct zr_str *ret);
uint32_t zb_consumer_online(struct zr_str group, struct zr_str client_id);
zr_status zb_clients_consumers(struct zr_str group, void (*fn)(void *ctx, const struct zr_consumers *c), void *ctx);
void zb_clients_each_consumers(int32_t (*each)(void *ctx, const struct zr_consumers *c), void *ctx);
void zb_clients_each_producer(struct zr_str group,
                              int32_t (*each)(void *ctx, struct zr_str group, const struct zr_client *client),
                              void *ctx);
struct zr_session *zb_clients_session(struct zr_str group, struct zr_str client_id, uint32_t producers);
/* Client ids of a consumer group as {"consumerIdList":[...]}; 0: nobody. */
uint32_t zb_clients_ids(struct zr_str group, struct zl_buf *out);
void zb_clients_scan(int64_t now_ms); /* worker: ends connections that fell silent */
void zb_clients_close(void);

/* ---- lanes ---- */
#define ZB_BATCH_MSGS 1024u
#define ZB_BATCH_SENDS 1024u
#define ZB_BATCH_BYTES (8u << 20)
#define ZB_BATCH_ARENA (4u << 20) /* rewritten properties and what hooks make; beyond it the batch is appended early */
#define ZB_LATENCY_BUCKETS 160u
struct zb_counters { /* written by one thread, read by the sampler */
    _Atomic int64_t put, put_failed, put_bytes, found, miss, given, put_max_ms, get_max_ms;
    _Atomic int64_t histogram[13];
    _Atomic int64_t latency[ZB_LATENCY_BUCKETS]; /* us, eight buckets an octave */
};
struct zb_send; /* send.c */
struct zb_lane {
    struct zk_lane *lane;
    struct zk_arena arena; /* of the batch */
    struct zb_map topics, groups;
    uint64_t topics_gen, groups_gen;
    struct zr_msg *msgs;
    struct zr_put *puts;
    struct zb_queue **queues;
    struct zb_topic **owners; /* of queues; borrowed from the cache */
    struct zb_send *sends;
    uint32_t n_msgs, n_sends, cap_msgs;
    _Atomic uint32_t closed;
    uint64_t bytes;
    struct zr_session *last_session; /* of this turn, with its address */
    struct zr_addr last_addr;
    pthread_mutex_t inbox_lock;
    struct zb_job *inbox, **inbox_end;
    _Atomic uint32_t has_jobs;
    uint32_t running;                       /* jobs are being run */
    struct zb_parked *parked, **parked_end; /* in order of position */
    _Atomic int64_t parked_min;             /* position of the first; INT64_MAX: none */
    uint64_t timer;
    int64_t timer_at;
    uint64_t random;
    struct zb_counters count;
};
static inline struct zb_lane *zb_lane_of(struct zr_session *session)
{
    return (struct zb_lane *)zk_session_lane(session)->broker;
}
/* Before a request looks into the caches: runs jobs that came in (they are older than the request), and empties
 * caches that are out of date, after appending what stands on them. */
void zb_lane_fresh(struct zb_lane *lane);
uint32_t zb_lane_random(struct zb_lane *lane, uint32_t below);
void zb_lane_opened(struct zk_lane *lane);
void zb_lane_closed(struct zk_lane *lane);
void zb_lane_turn_end(struct zk_lane *lane);
void zb_lane_woken(struct zk_lane *lane);
uint32_t zb_lanes(struct zb_lane ***ret); /* all there ever were */
void zb_lanes_close(void);

/* ---- send ---- */
void zb_send_append(struct zb_lane *lane);                 /* what the lane has gathered */
uint32_t zb_lane_resize(struct zb_lane *lane, uint32_t n); /* arrays of an empty batch */
void zb_lane_shrink(struct zb_lane *lane);
zr_status zb_send_handle(struct zr_inst *inst, const struct zr_request *req);
zr_status zb_retry_handle(struct zr_inst *inst, const struct zr_request *req);
#define ZB_PUBLISHED 0u /* go on: store it */
#define ZB_REJECTED 1u  /* verdict has code and remark */
#define ZB_HANDLED 2u
/* Publish hooks, and the demands that only plugins meet. */
uint32_t zb_publish_hooks(struct zr_msg *msg, const struct zr_request *req, void *(*scratch)(void *, uint64_t),
                          void *scratch_ctx, struct zr_verdict *verdict);
void zb_publish(struct zr_msg *msgs, uint32_t n, uint32_t flags, const struct zr_request *req,
                void (*on_done)(void *ctx, zr_status status, const struct zr_put *puts, uint32_t n), void *ctx);
int32_t zb_put_code(const struct zr_put *put);
void zb_put_remark(const struct zr_put *put, char *to, uint64_t cap);
/* owners: the topics of the messages, or NULL. */
void zb_stored_hooks(const struct zr_msg *msgs, struct zb_topic *const *owners, const struct zr_put *puts, uint32_t n);
struct zb_props { /* what a send looks for in a properties string */
    struct zr_str tags, uniq, keys, delay, tran, wait, inner_num, timer_out, priority;
    uint32_t sharded, reserved; /* __SHARDINGKEY is there */
    uint32_t timer; /* a delivery time is set */
    uint32_t ours;  /* names that the broker sets or removes are in it */
};
void zb_props_scan(struct zr_span props, struct zb_props *ret);
/* How long a message that failed so often waits, by a group's own policy, ms; -1: it has none. */
int64_t zb_policy_delay(struct zr_str json, int32_t times);
struct zb_retry_target {
    struct zr_str topic;
    int32_t queues;
    uint32_t dlq;
};

/* ---- pull ---- */
struct zb_pull {
    struct zb_job job;
    struct zr_token *token; /* held once `kept` */
    struct zb_peer *peer;
    struct zb_lane *lane; /* of the session */
    struct zr_str group, topic_name, type;
    struct zr_str proxy_client; /* whom a proxy pulls for */
    struct zr_str subscription; /* text of own; gone once it is compiled */
    int64_t offset, commit, sub_version, arrived_ns, suspend_ms;
    int32_t queue_id, max_messages, sys_flag, code;
    struct zb_filter *own;    /* compiled from the request (bit SUBSCRIPTION) */
    uint32_t own_ready, kept; /* own was compiled; this is a heap object that owns its text and token */
    uint32_t stage, on_worker;
    uint32_t broadcast; /* ZB_BROADCAST_..., 0: of another kind of group */
    uint32_t was_cold;  /* it waited for what is not in memory: it was held back once, or is read by a worker */
    /* while held: */
    struct zb_topic *topic;
    struct zb_queue *queue;
    struct zb_filter *match;
    struct zb_filter *unasked;               /* of a queue with too many filters: match is NULL then */
    struct zb_pull *prev, *next;             /* of the same queue and filter; guarded by queue->lock */
    struct zb_pull *head_prev, *head_next;   /* of a head, which stands for the others of its filter; the same */
    uint32_t is_head;                        /* the same */
    struct zb_pull *wheel_prev, *wheel_next; /* of the wheel's slot; guarded by the hold lock */
    struct zb_pull *peer_prev, *peer_next;   /* of the peer; guarded by the hold lock */
    uint64_t due_tick;
    _Atomic uint32_t state; /* ZB_HELD, ZB_TAKEN, ZB_NEW, ZB_MISSED */
};
#define ZB_BROADCAST_CLIENT 1u
#define ZB_BROADCAST_PROXY 2u
#define ZB_HELD 1u
#define ZB_TAKEN 2u
#define ZB_NEW 3u    /* linked, but its holder has not yet looked once more */
#define ZB_MISSED 4u /* the same, and somebody wanted to take it: the holder does */
#define ZB_PULL_FIRST 1u /* commits, takes a reset, may be held */
#define ZB_PULL_READ 2u  /* the same, later: on a worker, since the data is not in memory; committed already */
#define ZB_PULL_AGAIN 3u /* woken or overdue: answers, whatever comes */
zr_status zb_pull_handle(struct zr_inst *inst, const struct zr_request *req);
void zb_pull_run_again(struct zb_pull *p); /* a taken one, on any thread: answers and frees */
void zb_pull_run_cold(struct zb_pull *p);  /* one that zb_cold_delay took, when its time is over */
void zb_pull_free(struct zb_pull *p);      /* a kept one, whose token was used up or dropped */

/* ---- cold reads (cold.c): codes 2001, 2002, 2003 ---- */
void zb_cold_read(struct zr_str group, uint64_t bytes); /* what a worker had to fetch for the group */
uint32_t zb_cold_over(struct zr_str group);             /* 1: it has had its share of this period */
uint32_t zb_cold_delay(struct zb_pull *p);              /* takes a kept one for a second. 0: refused */
void zb_cold_release(uint32_t all);
void zb_cold_second(void);
zr_status zb_cold_set_handle(struct zr_inst *inst, const struct zr_request *req);
zr_status zb_cold_remove_handle(struct zr_inst *inst, const struct zr_request *req);
zr_status zb_cold_info_handle(struct zr_inst *inst, const struct zr_request *req);
void zb_cold_close(void);

/* ---- offsets of broadcasting clients (broadcast.c) ---- */
#define ZB_BROADCAST_SUFFIX "@broadcast" /* behind a group's name: the least offset of its clients */
/* Where the client's pull has to begin, if it comes another way than its last one did; -1: where it says. */
int64_t zb_broadcast_begin(struct zb_pull *p, struct zr_queue *queue);
void zb_broadcast_pulled(struct zb_pull *p, int64_t offset);
void zb_broadcast_second(void);
void zb_broadcast_scan(int64_t now_ms);
void zb_broadcast_close(void);

/* ---- held pulls ---- */
/* Holds a kept pull. NULL: it is no more the caller's. Else it is refused, by the limit that the text names. */
#define ZB_MAX_HEADS 512u /* different filters that a message is asked about on one queue; other pulls look for themselves */
const char *zb_hold(struct zb_pull *p, int64_t until_ns);
/* A message at queue_offset is visible. here: how many of those that are woken are run on this thread, counted down;
 * the others, and all with NULL, are run by their lanes. properties NULL: unknown. */
#define ZB_WOKEN_HERE 8u
void zb_hold_arrived(struct zb_queue *queue, int64_t queue_offset, int64_t tags_code, const struct zr_span *properties,
                     uint32_t any_tag, uint32_t *here);
void zb_hold_wake_topic(struct zb_topic *topic); /* all, whatever arrived */
void zb_hold_wake_all(uint32_t here);
void zb_hold_drop(struct zb_peer *peer);
uint64_t zb_hold_count(void);
void zb_hold_open(void);
void zb_hold_close(void);

/* ---- durability ---- */
struct zb_ack {             /* an answer that waits */
    struct zr_token *token; /* held */
    struct zr_str ids, uniq, batch_uniq, recall;
    int64_t queue_offset, arrived_ns;
    int32_t queue_id;
    uint32_t flags;
};
struct zb_wake {
    struct zb_topic *topic;
    struct zb_queue *queue;
    int64_t queue_offset, tags_code;
    uint32_t any_tag;
};
struct zb_parked { /* what one append of a lane waits with */
    struct zb_parked *next;
    struct zk_arena arena; /* of the texts */
    int64_t position, deadline_ns;
    struct zb_ack *acks;
    struct zb_wake *wakes;
    uint32_t n_acks, n_wakes;
    uint32_t hushed; /* the acks were answered: only the wakes are left */
};
void zb_durability_open(void);
uint32_t zb_durability_waits(int64_t position);   /* 1: an answer for it must wait */
uint32_t zb_durability_visible(int64_t position); /* 1: consumers may see it */
void zb_durability_written(int64_t position);
void zb_durability_park(struct zb_lane *lane, struct zb_parked *p);
void zb_durability_release(struct zb_lane *lane, uint32_t all); /* lane's thread: answers what may leave */
void zb_durability_when(int64_t position, void (*fn)(void *arg, zr_status status), void *arg);
/* Memory ran out for the wakes of what ends at position: once it is visible, every held pull looks again. */
void zb_durability_missed(int64_t position);
void zb_durability_shut(void); /* nothing from outside comes in any more: before the lanes are freed */
void zb_durability_close(void);
void zb_ack_answer(struct zb_ack *ack, int32_t code, const char *remark); /* send.c */
extern const struct zr_durability_v1 zb_durability_table;

/* ---- statistics ---- */
void zb_count_put(struct zb_counters *c, int64_t messages, int64_t bytes, int64_t took_ns);
void zb_stats_second(void); /* by the tick */
void zb_stats(struct zr_broker_stats *ret);
void zb_rate_add(struct zb_rate *r, int64_t now_ms, int64_t count, int64_t bytes);
void zb_rate_get(const struct zb_rate *r, double *ret_count, double *ret_bytes); /* per second */
void zb_stats_load(void);

/* ---- the rest ---- */
extern const struct zr_broker_v1 zb_broker_table;
extern const struct zr_store_v1 zb_store_table;
extern const struct zr_handler zb_handlers[];
extern const uint32_t zb_n_handlers;
zr_status zb_heartbeat_handle(struct zr_inst *inst, const struct zr_request *req);
zr_status zb_unregister_handle(struct zr_inst *inst, const struct zr_request *req);
zr_status zb_check_config_handle(struct zr_inst *inst, const struct zr_request *req);
zr_status zb_consumer_list_handle(struct zr_inst *inst, const struct zr_request *req);
zr_status zb_query_offset_handle(struct zr_inst *inst, const struct zr_request *req);
zr_status zb_update_offset_handle(struct zr_inst *inst, const struct zr_request *req);
zr_status zb_max_offset_handle(struct zr_inst *inst, const struct zr_request *req);
zr_status zb_min_offset_handle(struct zr_inst *inst, const struct zr_request *req);
zr_status zb_search_offset_handle(struct zr_inst *inst, const struct zr_request *req);
zr_status zb_earliest_handle(struct zr_inst *inst, const struct zr_request *req);

struct zb_meters {
    uint32_t sends, messages, bytes, appends, pulls, held, held_refused, held_dropped, parked, clients, topics, groups,
        progress, doc_failed, deferred;
};
struct zb {
    struct zb_settings set;
    uint32_t up;               /* open succeeded */
    _Atomic uint32_t stopping; /* no sends any more */
    const struct zr_storage_v1 *storage;
    struct zr_inst *storage_inst;
    uint32_t sync; /* visible follows flushed */
    uint32_t has_delay, has_transaction, slave;
    struct zr_identity id;
    char addr_text[300], ha_text[300], ip1[256], ip2[256];
    char props_tail[2][600]; /* what every message gets: MSG_REGION, TRACE_ON (index), CLUSTER */
    uint64_t props_tail_len[2];
    int64_t boot_ms;
    /* topics */
    pthread_rwlock_t topics_lock;
    struct zb_map topics;
    _Atomic uint64_t topics_gen;
    struct zr_data_version topics_version;
    /* groups; forbidden is under the same lock */
    pthread_rwlock_t groups_lock;
    struct zb_map groups, forbidden;
    _Atomic uint64_t groups_gen;
    _Atomic uint32_t n_forbidden;
    struct zr_data_version groups_version;
    /* clients */
    pthread_rwlock_t clients_lock;
    struct zb_map consumers, producers;
    struct zb_map members; /* by zb_member_key */
    /* jobs of ours on the pool, and the ticks */
    pthread_mutex_t jobs_lock;
    pthread_cond_t jobs_cond;
    uint32_t n_jobs;
    pthread_mutex_t tick_lock; /* held while a tick runs; stopping is set under it */
    pthread_mutex_t stats_lock;
    struct zb_counters count; /* of threads that are no lanes; updated with atomic adds */
    struct zb_meters meter;
};
extern struct zb zb;
/* A group or topic was made on demand. 1: the log says so; 0: it was one of many, and a line a minute counts them. */
#define ZB_MADE_GROUP 0u
#define ZB_MADE_TOPIC 1u
uint32_t zb_made_tell(uint32_t what);
void zb_made_minute(void);
/* zk_work, counted: zk_broker_stop waits for these. */
zr_status zb_work(void (*fn)(void *), void *arg);
static inline struct zr_str zb_cat(char *to, uint64_t cap, const char *prefix, struct zr_str s)
{
    uint64_t n = strlen(prefix);
    if (n + s.len > cap)
        return (struct zr_str){ NULL, 0 };
    memcpy(to, prefix, n);
    if (s.len)
        memcpy(to + n, s.ptr, s.len);
    return (struct zr_str){ to, n + s.len };
}
#endif
