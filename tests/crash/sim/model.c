/* SPDX-License-Identifier: Apache-2.0 */
/* model.c - see model.h. */
#include "model.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "zl/text.h"

#define SECTOR 512u
#define PAGE 4096u

uint64_t mix64(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

static uint32_t below(const char *path, const char *folder)
{
    size_t n = strlen(folder);
    return strncmp(path, folder, n) == 0 && path[n] == '/';
}
static uint32_t lies_in(const char *path, const char *folder)
{
    size_t n = strcmp(folder, "/") == 0 ? 0 : strlen(folder);
    return strncmp(path, folder, n) == 0 && path[n] == '/' && !strchr(path + n + 1, '/');
}

static void push(uint32_t **at, uint32_t *n, uint32_t *cap, uint32_t v)
{
    if (*n == *cap) {
        *cap = *cap ? *cap * 2 : 16;
        *at = realloc(*at, *cap * sizeof **at);
    }
    (*at)[(*n)++] = v;
}

/* ---- the durable side --------------------------------------------------------------------------------------------------- */

static void file_size(struct mfile *f, uint64_t size)
{
    if (size > f->cap) {
        uint64_t cap = f->cap * 2 > size ? f->cap * 2 : size;
        f->data = realloc(f->data, cap);
        memset(f->data + f->cap, 0, cap - f->cap);
        f->cap = cap;
    }
    if (size < f->size) memset(f->data + size, 0, f->size - size);
    f->size = size;
}

static void file_apply(struct mfile *f, const struct sim_event *e)
{
    if (e->kind == EV_SIZE) {
        file_size(f, (uint64_t)e->off);
        return;
    }
    if ((uint64_t)e->off + e->len > f->size) file_size(f, (uint64_t)e->off + e->len);
    memcpy(f->data + e->off, e->data, e->len);
}

static void file_synced(struct walk *w, struct mfile *f, uint32_t upto)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < f->n; i++) {
        if (f->pending[i] < upto) file_apply(f, &w->events[f->pending[i]]);
        else f->pending[kept++] = f->pending[i];
    }
    f->n = kept;
}

static struct mfile *file_at(struct walk *w, uint32_t inode)
{
    if (inode >= w->cap_files) {
        uint32_t cap = (inode + 1) * 2;
        w->files = realloc(w->files, cap * sizeof *w->files);
        memset(w->files + w->cap_files, 0, (cap - w->cap_files) * sizeof *w->files);
        w->cap_files = cap;
    }
    if (inode >= w->n_files) w->n_files = inode + 1;
    return &w->files[inode];
}

static struct sim_name *name_at(struct sim_name *names, uint32_t n, const char *path)
{
    uint64_t hash = zl_hash(path, strlen(path));
    for (uint32_t i = 0; i < n; i++)
        if (names[i].hash == hash && strcmp(names[i].path, path) == 0) return &names[i];
    return NULL;
}

struct namelist {
    struct sim_name **at;
    uint32_t *n, *cap;
};
static void list_drop(struct namelist l, const char *path)
{
    struct sim_name *x = name_at(*l.at, *l.n, path);
    if (!x) return;
    free(x->path);
    *x = (*l.at)[--*l.n];
}
static void list_add(struct namelist l, const char *path, uint32_t inode)
{
    list_drop(l, path);
    if (*l.n == *l.cap) {
        *l.cap = *l.cap ? *l.cap * 2 : 64;
        *l.at = realloc(*l.at, *l.cap * sizeof **l.at);
    }
    (*l.at)[(*l.n)++] = (struct sim_name){ strdup(path), zl_hash(path, strlen(path)), inode };
}

static void list_apply(struct namelist l, const struct sim_event *e)
{
    switch (e->kind) {
    case EV_CREATE:
    case EV_MKDIR: list_add(l, e->path, e->inode); break;
    case EV_UNLINK: list_drop(l, e->path); break;
    case EV_RMDIR:
        for (uint32_t i = *l.n; i > 0; i--)
            if (i <= *l.n && below((*l.at)[i - 1].path, e->path)) list_drop(l, (*l.at)[i - 1].path);
        list_drop(l, e->path);
        break;
    case EV_RENAME: {
        list_drop(l, e->path);
        list_add(l, e->to, e->inode);
        for (uint32_t i = 0; i < *l.n; i++) { /* a folder takes along what is in it */
            struct sim_name *x = &(*l.at)[i];
            char path[1200];
            if (!below(x->path, e->path)) continue;
            snprintf(path, sizeof path, "%s%s", e->to, x->path + strlen(e->path));
            free(x->path);
            x->path = strdup(path);
            x->hash = zl_hash(path, strlen(path));
        }
        break;
    }
    default: break;
    }
}

static uint32_t of_names(enum ev_kind k) { return k == EV_CREATE || k == EV_MKDIR || k == EV_RENAME || k == EV_UNLINK || k == EV_RMDIR; }

static void names_synced(struct walk *w, const char *folder, uint32_t upto)
{
    struct namelist l = { &w->names, &w->n_names, &w->cap_names };
    uint32_t kept = 0;
    for (uint32_t i = 0; i < w->n_pending; i++) {
        const struct sim_event *e = &w->events[w->pending[i]];
        if (w->pending[i] >= upto || (folder && !lies_in(e->path, folder))) {
            w->pending[kept++] = w->pending[i];
            continue;
        }
        list_apply(l, e);
        if (e->kind != EV_RENAME) continue;
        uint32_t stay = 0; /* what was made before in a folder that went away is not in the one that takes its place */
        for (uint32_t k = 0; k < kept; k++)
            if (!below(w->events[w->pending[k]].path, e->path)) w->pending[stay++] = w->pending[k];
        kept = stay;
    }
    w->n_pending = kept;
}

/* A name was made below this path since the start. */
static uint32_t made_since(const struct walk *w, const char *path)
{
    for (uint32_t i = w->restart; i < w->at; i++)
        if (w->events[i].kind == EV_CREATE && strstr(w->events[i].path, path)) return 1;
    return 0;
}

static uint32_t is_dropped(const struct walk *w, const struct sim_event *e)
{
    const struct mutation *m = w->mutation;
    if (!m || !m->path || !e->path) return 0;
    if (e->kind == EV_SYNC ? !m->file_syncs : !m->dir_syncs) return 0;
    if (m->restart && (!w->restart || w->at < w->restart || made_since(w, m->path))) return 0;
    return strstr(e->path, m->path) && (!m->beside || !strstr(e->path, m->beside));
}

/* syncfs, less what a mutation holds back. */
static void all_synced(struct walk *w, const struct sim_event *e)
{
    for (uint32_t i = 0; i < w->n_files; i++) file_synced(w, &w->files[i], e->upto);
    names_synced(w, NULL, e->upto);
}

void walk_begin(struct walk *w, struct sim *base, const struct sim_event *events, uint32_t n, const struct mutation *mutation)
{
    *w = (struct walk){ .events = events, .n = n, .mutation = mutation, .wall_ms = base->wall_ms, .boot = 1 };
    struct namelist l = { &w->names, &w->n_names, &w->cap_names };
    for (uint32_t i = 0; i < base->n_inodes; i++) {
        struct mfile *f = file_at(w, i);
        f->is_dir = base->inodes[i].is_dir;
        f->ino = base->inodes[i].ino;
        file_size(f, base->inodes[i].size);
        if (f->size) memcpy(f->data, base->inodes[i].data, f->size);
    }
    for (uint32_t i = 0; i < base->n_names; i++)
        if (strcmp(base->names[i].path, SIM_BOOT_ID) != 0) list_add(l, base->names[i].path, base->names[i].inode);
}

void walk_to(struct walk *w, uint32_t event)
{
    for (; w->at < event && w->at < w->n; w->at++) {
        const struct sim_event *e = &w->events[w->at];
        struct mfile *f = file_at(w, e->inode);
        if (e->kind == EV_WRITE || e->kind == EV_SIZE) push(&f->pending, &f->n, &f->cap_pending, w->at);
        else if (of_names(e->kind)) push(&w->pending, &w->n_pending, &w->cap_pending, w->at);
        if (e->kind == EV_MKDIR) f->is_dir = 1;
        if (e->kind == EV_CREATE) f->ino = (uint64_t)e->off;
        if (is_dropped(w, e)) continue;
        if (e->kind == EV_SYNC) file_synced(w, f, e->upto);
        if (e->kind == EV_SYNC_DIR) names_synced(w, e->path, e->upto);
        if (e->kind == EV_SYNC_FS) all_synced(w, e);
    }
}

void walk_end(struct walk *w)
{
    for (uint32_t i = 0; i < w->n_files; i++) {
        free(w->files[i].data);
        free(w->files[i].pending);
    }
    for (uint32_t i = 0; i < w->n_names; i++) free(w->names[i].path);
    free(w->files);
    free(w->names);
    free(w->pending);
}

/* ---- plans ------------------------------------------------------------------------------------------------------------------ */

static const char *const pick_names[PICK_N] = { "none", "all", "chance", "until", "all but one", "one", "last torn" };

const char *plan_text(const struct plan *p)
{
    static char text[200];
    snprintf(text, sizeof text, "names %s, data %s, sizes %s, grain %u, until %u, one %u, seed %llu", pick_names[p->names],
             pick_names[p->data], pick_names[p->sizes], p->grain, p->until, p->one, (unsigned long long)p->seed);
    return text;
}

static uint32_t busy_file(const struct walk *w, uint64_t seed)
{
    uint32_t k = 0;
    for (uint32_t i = 0; i < w->n_files; i++) k += w->files[i].n > 0;
    if (k == 0) return 0;
    k = (uint32_t)(seed % k);
    for (uint32_t i = 0; i < w->n_files; i++)
        if (w->files[i].n > 0 && k-- == 0) return i;
    return 0;
}

struct plan plan_make(const struct walk *w, uint64_t seed)
{
    static const struct plan kinds[] = {
        { PICK_NONE, PICK_NONE, PICK_NONE }, { PICK_ALL, PICK_ALL, PICK_ALL },         { PICK_ALL, PICK_NONE, PICK_NONE },
        { PICK_ALL, PICK_NONE, PICK_ALL },   { PICK_CHANCE, PICK_ALL, PICK_ALL },      { PICK_CHANCE, PICK_CHANCE, PICK_CHANCE },
        { PICK_ALL, PICK_CHANCE, PICK_ALL }, { PICK_ALL, PICK_CHANCE, PICK_CHANCE },   { PICK_UNTIL, PICK_UNTIL, PICK_UNTIL },
        { PICK_UNTIL, PICK_CHANCE, PICK_ALL }, { PICK_ALL, PICK_ONE_LOST, PICK_ALL },  { PICK_ALL, PICK_ONE_KEPT, PICK_ALL },
        { PICK_ALL, PICK_LAST_TORN, PICK_ALL }, { PICK_NONE, PICK_ALL, PICK_ALL },     { PICK_ALL, PICK_ALL, PICK_CHANCE },
    };
    uint64_t h = mix64(seed * 7919 + w->at);
    struct plan p = kinds[seed % (sizeof kinds / sizeof *kinds)];
    p.grain = h & 1 ? SECTOR : PAGE;
    p.seed = h;
    p.until = (uint32_t)((h >> 8) % (w->at + 1));
    if (w->at > 40 && (h >> 7) % 2) p.until = w->at - (uint32_t)((h >> 8) % 40);
    p.one = busy_file(w, h >> 20);
    return p;
}

/* ---- states ------------------------------------------------------------------------------------------------------------------- */

/* How far in the trace (an event number) the thing numbered `where` of this file got to the disk. */
static uint32_t reached(const struct mfile *f, enum pick pick, const struct plan *p, uint32_t inode, uint64_t where)
{
    uint64_t h = mix64(p->seed ^ mix64(where + 1) ^ ((uint64_t)inode << 40));
    switch (pick) {
    case PICK_NONE: return 0;
    case PICK_UNTIL: return p->until;
    case PICK_ONE_LOST: return inode == p->one ? 0 : UINT32_MAX;
    case PICK_ONE_KEPT: return inode == p->one ? UINT32_MAX : 0;
    case PICK_LAST_TORN: return inode == p->one && (h & 1) ? f->pending[f->n - 1] : UINT32_MAX;
    case PICK_CHANCE: {
        uint64_t k = h % (f->n + 1);
        return k == f->n ? UINT32_MAX : f->pending[k];
    }
    default: return UINT32_MAX;
    }
}

static void state_write(struct sim *s, uint32_t inode, const struct walk *w, const struct mfile *f, const struct plan *p, uint32_t ev,
                        uint64_t limit)
{
    const struct sim_event *e = &w->events[ev];
    struct sim_inode *to = &s->inodes[inode];
    uint64_t end = (uint64_t)e->off + e->len;
    for (uint64_t at = (uint64_t)e->off; at < end;) {
        uint64_t k = (at / p->grain + 1) * p->grain - at;
        if (k > end - at) k = end - at;
        if (at < limit && ev < reached(f, p->data, p, (uint32_t)(f - w->files), at / p->grain)) {
            if (at + k > to->size) k = at < to->size ? to->size - at : 0;
            if (k) memcpy(to->data + at, e->data + (at - (uint64_t)e->off), k);
            if (k == 0) break;
        }
        at += k;
    }
}

static void state_file(struct sim *s, uint32_t inode, const struct walk *w, const struct mfile *f, const struct plan *p)
{
    uint32_t self = (uint32_t)(f - w->files);
    uint32_t meta = f->n ? reached(f, p->sizes, p, self, UINT64_MAX / 2) : 0;
    uint64_t limit = UINT64_MAX, most = f->size, size = f->size;
    for (uint32_t i = 0; i < f->n; i++) { /* room for the largest it ever was */
        const struct sim_event *e = &w->events[f->pending[i]];
        uint64_t end = (uint64_t)e->off + (e->kind == EV_WRITE ? e->len : 0);
        if (end > most) most = end;
    }
    sim_resize(s, inode, most);
    if (f->size) memcpy(s->inodes[inode].data, f->data, f->size);
    for (uint32_t i = 0; i < f->n; i++) {
        uint32_t ev = f->pending[i];
        const struct sim_event *e = &w->events[ev];
        if (e->kind == EV_WRITE) {
            state_write(s, inode, w, f, p, ev, limit);
            if (ev < meta && (uint64_t)e->off + e->len > size) size = (uint64_t)e->off + e->len;
            continue;
        }
        uint64_t to = (uint64_t)e->off;
        if (ev < meta) { /* done: nothing of what was there survives behind it */
            if (to < most) memset(s->inodes[inode].data + to, 0, most - to);
            size = to;
        } else if (to < size && limit == UINT64_MAX) { /* not done: what was written later behind it has no block to go to */
            limit = (to + PAGE - 1) / PAGE * PAGE;
        }
    }
    sim_resize(s, inode, size);
}

static uint32_t name_reached(const struct walk *w, const struct plan *p, uint32_t ev)
{
    (void)w;
    switch (p->names) {
    case PICK_NONE: return 0;
    case PICK_UNTIL: return ev < p->until;
    case PICK_CHANCE: return (uint32_t)(mix64(p->seed ^ mix64(ev)) & 1);
    default: return 1;
    }
}

static uint32_t is_barred(const char *const *barred, uint32_t n, const char *path)
{
    for (uint32_t i = 0; i < n; i++)
        if (strcmp(barred[i], path) == 0 || below(path, barred[i])) return 1;
    return 0;
}

/* The names of the state: those that are durable, and the pending changes that were picked, in a legal order. */
static void state_names(struct sim_name **names, uint32_t *n, uint32_t *cap, const struct walk *w, const struct plan *p)
{
    struct namelist l = { names, n, cap };
    const char **barred = malloc((w->n_pending * 2 + 1) * sizeof *barred);
    uint32_t n_barred = 0;
    for (uint32_t i = 0; i < w->n_names; i++) list_add(l, w->names[i].path, w->names[i].inode);
    for (uint32_t i = 0; i < w->n_pending; i++) {
        const struct sim_event *e = &w->events[w->pending[i]];
        uint32_t ok = name_reached(w, p, w->pending[i]) && !is_barred(barred, n_barred, e->path) &&
                      (!e->to || !is_barred(barred, n_barred, e->to));
        if (ok) {
            list_apply(l, e);
            continue;
        }
        barred[n_barred++] = e->path;
        if (e->to) barred[n_barred++] = e->to;
    }
    free(barred);
}

static uint32_t is_reachable(const struct sim_name *names, uint32_t n, const struct walk *w, const char *path)
{
    char up[1200];
    snprintf(up, sizeof up, "%s", path);
    for (char *slash; (slash = strrchr(up, '/')) && slash != up;) {
        *slash = 0;
        struct sim_name *x = name_at((struct sim_name *)(uintptr_t)names, n, up);
        if (!x || !w->files[x->inode].is_dir) return 0;
    }
    return 1;
}

uint32_t plan_is_kill(const struct plan *p) { return p->names == PICK_ALL && p->data == PICK_ALL && p->sizes == PICK_ALL; }

static struct sim *state_make(const struct walk *w, const struct plan *p, uint32_t numbered)
{
    struct sim *s = sim_new();
    struct sim_name *names = NULL;
    uint32_t n = 0, cap = 0;
    s->wall_ms = w->wall_ms;
    sim_boot(s, plan_is_kill(p) ? w->boot : w->boot + 1);
    state_names(&names, &n, &cap, w, p);
    if (numbered) sim_inodes(s, w->n_files);
    for (uint32_t i = 0; i < n; i++) {
        const struct mfile *f = &w->files[names[i].inode];
        if (!is_reachable(names, n, w, names[i].path)) continue;
        uint32_t inode = names[i].inode;
        if (numbered) sim_name_add(s, names[i].path, inode);
        else inode = sim_make(s, names[i].path, f->is_dir);
        s->inodes[inode].is_dir = f->is_dir;
        s->inodes[inode].ino = f->ino;
        if (f->ino >= s->next_ino) s->next_ino = f->ino + 1;
        if (!f->is_dir) state_file(s, inode, w, f, p);
    }
    for (uint32_t i = 0; i < n; i++) free(names[i].path);
    free(names);
    return s;
}

struct sim *walk_state(const struct walk *w, const struct plan *p) { return state_make(w, p, 0); }

struct sim *walk_killed(struct walk *w)
{
    static const struct plan killed = { PICK_ALL, PICK_ALL, PICK_ALL, SECTOR };
    struct sim *s = state_make(w, &killed, 1);
    w->restart = w->at;
    return s;
}
