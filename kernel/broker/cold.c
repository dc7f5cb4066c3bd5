/* SPDX-License-Identifier: Apache-2.0 */
/* cold.c - cold reads of consumer groups: counted, and held back when a group reads too much that is not in memory.
 *
 * Codes 2001, 2002 and 2003 set, remove and show a group's threshold, whether coldDataFlowControlEnable is on or not; only when it
 * is on, reads are counted and held back. "Cold" is what the storage refuses to read without waiting (ZR_EAGAIN): a worker has to
 * fetch it from the disk. A group that took more of it in a period than its threshold (cgColdReadThreshold where none is set), or
 * any group while all took more than globalColdReadThreshold, is answered SYSTEM_BUSY if it pushes; one that pulls actively waits a
 * second and gets one message.
 *
 * What stays true:
 *   1. What is in memory is never held back, and no group whose name begins with CID_RMQ_SYS_.
 *   2. At most MAX_GROUPS groups are counted or have a threshold; a group beyond it is not held back.
 *   3. At most MAX_DELAYED pulls wait here; a further one is answered SYSTEM_BUSY.
 *   4. Thresholds last until the process ends, as Apache's do.
 *
 * LOCKING. cold_lock is a leaf and guards everything in this file. */
#include "broker/internal.h"
#include "zl/conf.h"

#define MAX_GROUPS 10000u
#define MAX_DELAYED 10000u
#define PERIOD_S 5u        /* counters begin anew so often */
#define IDLE_MS 60000      /* a group that read nothing cold for this long is forgotten */
#define DELAY_NS 1000000000LL

struct cold {
    struct zr_str name;
    int64_t threshold, bytes, created_ms, last_ms; /* last_ms 0: nothing was read */
    uint32_t configured, reserved;
};
static pthread_mutex_t cold_lock = PTHREAD_MUTEX_INITIALIZER;
static struct zb_map groups;
static int64_t all_bytes;
static struct zb_pull *delayed, **delayed_end = &delayed; /* by wheel_next, in order of due_tick (ns) */
static uint32_t n_delayed, seconds;

/* ---- the table; under cold_lock ---- */
static struct cold *cold_of(struct zr_str name, uint32_t create)
{
    uint64_t hash = zb_hash(name);
    struct cold *c = zb_map_get(&groups, hash, name);
    if (c || !create || groups.n >= MAX_GROUPS)
        return c;
    c = calloc(1, sizeof *c + name.len);
    if (!c)
        return NULL;
    char *at = (char *)(c + 1);
    c->name = zb_text_put(&at, name);
    if (zb_map_put(&groups, hash, c->name, c) == ZR_OK)
        return c;
    free(c);
    return NULL;
}

static void cold_remove(struct cold *c)
{
    zb_map_del(&groups, zb_hash(c->name), c->name);
    free(c);
}

/* ---- what pulls ask ---- */
void zb_cold_read(struct zr_str group, uint64_t bytes)
{
    if (!bytes || !ZB_SET(cold_control))
        return;
    int64_t now_ms = zk_wall_ms();
    pthread_mutex_lock(&cold_lock);
    all_bytes += (int64_t)bytes;
    struct cold *c = cold_of(group, 1);
    if (c) {
        if (!c->last_ms)
            c->created_ms = now_ms;
        c->bytes += (int64_t)bytes;
        c->last_ms = now_ms;
    }
    pthread_mutex_unlock(&cold_lock);
}

uint32_t zb_cold_over(struct zr_str group)
{
    if (!ZB_SET(cold_control) || zl_starts(group, "CID_RMQ_SYS_"))
        return 0;
    pthread_mutex_lock(&cold_lock);
    const struct cold *c = cold_of(group, 0);
    uint32_t over = c && c->last_ms &&
                    (c->bytes >= (c->configured ? c->threshold : ZB_SET(cold_group_bytes)) ||
                     all_bytes >= ZB_SET(cold_all_bytes));
    pthread_mutex_unlock(&cold_lock);
    return over;
}

uint32_t zb_cold_delay(struct zb_pull *p)
{
    p->due_tick = (uint64_t)(zk_mono_ns() + DELAY_NS);
    p->wheel_next = NULL;
    pthread_mutex_lock(&cold_lock);
    uint32_t taken = n_delayed < MAX_DELAYED && !atomic_load(&zb.stopping);
    if (taken) {
        *delayed_end = p;
        delayed_end = &p->wheel_next;
        n_delayed++;
    }
    pthread_mutex_unlock(&cold_lock);
    return taken;
}

/* ---- time ---- */
static struct zb_pull *delayed_take(uint64_t until)
{
    struct zb_pull *first = delayed, **at = &delayed;
    for (; *at && (*at)->due_tick <= until; at = &(*at)->wheel_next)
        n_delayed--;
    if (at == &delayed)
        return NULL;
    delayed = *at;
    *at = NULL;
    if (!delayed)
        delayed_end = &delayed;
    return first;
}

void zb_cold_release(uint32_t all)
{
    pthread_mutex_lock(&cold_lock);
    struct zb_pull *chain = delayed_take(all ? UINT64_MAX : (uint64_t)zk_mono_ns());
    pthread_mutex_unlock(&cold_lock);
    while (chain) {
        struct zb_pull *next = chain->wheel_next;
        zb_pull_run_cold(chain);
        chain = next;
    }
}

static void period_end(int64_t now_ms)
{
    uint64_t at = 0;
    struct cold *c;
    all_bytes = 0;
    while ((c = zb_map_next(&groups, &at))) {
        c->bytes = 0;
        if (c->last_ms && now_ms - c->last_ms >= IDLE_MS)
            c->last_ms = 0;
        if (!c->last_ms && !c->configured) {
            cold_remove(c);
            at--; /* another one may stand in its place now */
        }
    }
}

static void release_work(void *arg)
{
    (void)arg;
    zb_cold_release(0);
}

void zb_cold_second(void)
{
    int64_t now_ms = zk_wall_ms();
    pthread_mutex_lock(&cold_lock);
    if (++seconds >= PERIOD_S) {
        seconds = 0;
        period_end(now_ms);
    }
    uint32_t due = delayed && delayed->due_tick <= (uint64_t)zk_mono_ns();
    pthread_mutex_unlock(&cold_lock);
    if (due) /* not here: a tick holds a lock */
        (void)zb_work(release_work, NULL);
}

/* ---- requests ---- */
static void threshold_set(struct zr_str group, int64_t bytes)
{
    pthread_mutex_lock(&cold_lock);
    struct cold *c = cold_of(group, 1);
    if (c) {
        c->threshold = bytes;
        c->configured = 1;
    }
    pthread_mutex_unlock(&cold_lock);
}

zr_status zb_cold_set_handle(struct zr_inst *inst, const struct zr_request *req)
{
    struct zl_property *list = NULL;
    uint32_t n = 0, line = 0;
    (void)inst;
    if (zl_properties_parse((struct zr_str){ (const char *)req->body.ptr, req->body.len }, &list, &n, &line) != ZR_OK)
        return zk_answer_code(req->token, ZB_SYSTEM_ERROR, "string2Properties error");
    for (uint32_t i = 0; i < n; i++) {
        int64_t bytes;
        if (list[i].key.len && list[i].key.len <= ZL_RETRY_TOPIC_MAX && zl_parse_i64(list[i].value, &bytes) == ZR_OK)
            threshold_set(list[i].key, bytes);
    }
    free(list);
    return zk_answer_code(req->token, ZB_SUCCESS, NULL);
}

zr_status zb_cold_remove_handle(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str name = { (const char *)req->body.ptr, req->body.len };
    (void)inst;
    pthread_mutex_lock(&cold_lock);
    struct cold *c = cold_of(name, 0);
    if (c)
        c->configured = 0;
    if (c && !c->last_ms)
        cold_remove(c);
    pthread_mutex_unlock(&cold_lock);
    return zk_answer_code(req->token, ZB_SUCCESS, NULL);
}

static void print_tables(struct zl_jw *w)
{
    const struct cold *c;
    uint64_t at = 0;
    zl_jw_key(w, zl_str("configTable"));
    zl_jw_begin(w, '{');
    while ((c = zb_map_next(&groups, &at)))
        if (c->configured) {
            zl_jw_key(w, c->name);
            zl_jw_i64(w, c->threshold);
        }
    zl_jw_end(w, '}');
    zl_jw_key(w, zl_str("runtimeTable"));
    zl_jw_begin(w, '{');
    for (at = 0; (c = zb_map_next(&groups, &at));)
        if (c->last_ms) {
            zl_jw_key(w, c->name);
            zl_jw_begin(w, '{');
            zl_jw_ki64(w, "coldAcc", c->bytes);
            zl_jw_ki64(w, "createTimeMills", c->created_ms);
            zl_jw_ki64(w, "lastColdReadTimeMills", c->last_ms);
            zl_jw_end(w, '}');
        }
    zl_jw_end(w, '}');
    zl_jw_ki64(w, "globalAcc", all_bytes);
}

zr_status zb_cold_info_handle(struct zr_inst *inst, const struct zr_request *req)
{
    struct zl_buf out;
    struct zl_jw w;
    (void)inst;
    zl_buf_init(&out, 8u << 20);
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_ki64(&w, "cgColdReadThreshold", ZB_SET(cold_group_bytes));
    zl_jw_ki64(&w, "globalColdReadThreshold", ZB_SET(cold_all_bytes));
    pthread_mutex_lock(&cold_lock);
    print_tables(&w);
    pthread_mutex_unlock(&cold_lock);
    zl_jw_end(&w, '}');
    struct zr_command c = { .hdr = ZR_HDR(struct zr_command, 0), .code = ZB_SUCCESS, .body = zl_buf_as_span(&out) };
    zr_status status = out.failed ? zk_answer_code(req->token, ZB_SYSTEM_ERROR, "memory ran out") : zk_answer(req->token, &c);
    zl_buf_free(&out);
    return status;
}

void zb_cold_close(void)
{
    struct cold *c;
    zb_cold_release(1);
    for (uint64_t at = 0; (c = zb_map_next(&groups, &at));)
        free(c);
    zb_map_free(&groups);
    all_bytes = 0;
    seconds = 0;
}
