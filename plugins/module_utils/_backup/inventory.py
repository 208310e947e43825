# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory of a database's objects: what of structure, ownership, grants and comments a restore must preserve.

Each constant lists one class of objects as ``(identity, attributes)``. An attribute is in the list only when a dump
and restore preserves it exactly, on every server version: names in place of OIDs, no version-dependent defaults, and
no deparsed expressions, because what pg_get_constraintdef and its kin print changes when it is read back once more
(``x IN ('a', 'b')`` on a varchar is the usual example). The queries expect ``search_path`` to be ``pg_catalog``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

#: Identity of an index that PostgreSQL calls invalid; no dump holds such an index, so a restore rightly lacks it.
INVALID_INDEX = "invalid index"

# An ACL by role name, sorted, the built-in default in place of an absent one. MAINTAIN came with version 17, where
# the owner has it by default and GRANT ALL includes it, so it would make equal grants differ between versions.
ACL = """(
         SELECT coalesce(jsonb_agg(g.grantee || '=' || g.privileges || '/' || g.grantor
                                   ORDER BY g.grantee COLLATE "C", g.grantor COLLATE "C"), '[]')
           FROM (SELECT CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS grantee,
                        quote_ident(pg_get_userbyid(x.grantor)) AS grantor,
                        string_agg(x.privilege_type || CASE WHEN x.is_grantable THEN '*' ELSE '' END, ','
                                   ORDER BY x.privilege_type COLLATE "C") AS privileges
                   FROM aclexplode({acl}) x
                  WHERE x.privilege_type <> 'MAINTAIN'
                  GROUP BY x.grantee, x.grantor) g)"""

# Objects of the system and members of extensions come with the server and with CREATE EXTENSION.
USER_SCHEMA = "(n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')"
NOT_MEMBER = """NOT EXISTS (SELECT FROM pg_depend e
                   WHERE e.classid = '{catalog}'::regclass AND e.objid = {oid} AND e.deptype = 'e')"""


def _acl(column: str, kind: str, owner: str) -> str:
    return ACL.replace("{acl}", "coalesce(%s, acldefault('%s', %s))" % (column, kind, owner))


def _enabled(column: str) -> str:
    return "CASE %s WHEN 'O' THEN 'origin' WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'replica' ELSE 'always' END" % column


def _not_member(catalog: str, oid: str) -> str:
    return NOT_MEMBER.replace("{catalog}", catalog).replace("{oid}", oid)


SCHEMAS = """
SELECT 'schema ' || quote_ident(n.nspname),
       jsonb_build_object('owner', pg_get_userbyid(n.nspowner),
                          'acl', {schema_acl},
                          'comment', obj_description(n.oid, 'pg_namespace'))
  FROM pg_namespace n
 WHERE {user_schema} AND {schema_not_member}
"""

# Column order counts: COPY and SELECT * depend on it. A dropped column leaves no trace.
RELATIONS = """
SELECT CASE c.relkind WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view ' WHEN 'f' THEN 'foreign table '
                      WHEN 'c' THEN 'composite type ' ELSE 'table ' END
       || quote_ident(n.nspname) || '.' || quote_ident(c.relname),
       jsonb_build_object(
         'owner', pg_get_userbyid(c.relowner),
         'acl', CASE WHEN c.relkind <> 'c' THEN {relation_acl} END,
         'comment', obj_description(c.oid, 'pg_class'),
         'partitioned', c.relkind = 'p',
         'persistence', {persistence},
         'access_method', (SELECT amname FROM pg_am WHERE oid = c.relam AND c.relkind IN ('r', 'm')),
         'row_security', c.relrowsecurity,
         'force_row_security', c.relforcerowsecurity,
         'replica_identity', CASE c.relreplident WHEN 'd' THEN 'default' WHEN 'n' THEN 'nothing' WHEN 'f' THEN 'full'
                                                ELSE 'index' END,
         'options', (SELECT jsonb_agg(o ORDER BY o COLLATE "C") FROM unnest(c.reloptions) o),
         'of_type', CASE WHEN c.reloftype <> 0 THEN format_type(c.reloftype, NULL) END,
         'parents', (SELECT jsonb_agg(i.inhparent::regclass::text ORDER BY i.inhseqno)
                       FROM pg_inherits i WHERE i.inhrelid = c.oid),
         'partition_bound', pg_get_expr(c.relpartbound, c.oid),
         'partition_strategy', (SELECT p.partstrat FROM pg_partitioned_table p WHERE p.partrelid = c.oid),
         'partition_key', (SELECT jsonb_agg(concat_ws(' ', coalesce(quote_ident(a.attname), '(expression)'),
                              (SELECT quote_ident(o.opcname) FROM pg_opclass o WHERE o.oid = p.partclass[u.n - 1]),
                              (SELECT 'collate ' || quote_ident(l.collname)
                                 FROM pg_collation l WHERE l.oid = p.partcollation[u.n - 1])) ORDER BY u.n)
                             FROM pg_partitioned_table p
                            CROSS JOIN unnest(p.partattrs::smallint[]) WITH ORDINALITY u (attnum, n)
                             LEFT JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = u.attnum
                                                     AND u.attnum <> 0
                            WHERE p.partrelid = c.oid),
         'columns', (SELECT jsonb_agg(concat_ws(' ', quote_ident(a.attname), format_type(a.atttypid, a.atttypmod),
                              CASE WHEN a.attnotnull THEN 'not null' END,
                              CASE WHEN EXISTS (SELECT FROM pg_constraint k
                                                 WHERE k.conrelid = c.oid AND k.contype = 'n' AND NOT k.convalidated
                                                   AND k.conkey = ARRAY[a.attnum]) THEN 'not valid' END,
                              CASE a.attidentity WHEN 'a' THEN 'always identity' WHEN 'd' THEN 'default identity' END,
                              CASE a.attgenerated WHEN 's' THEN 'generated stored' WHEN 'v' THEN 'generated virtual'
                                   ELSE CASE WHEN a.atthasdef THEN 'default' END END,
                              'collate ' || (SELECT quote_ident(cn.nspname) || '.' || quote_ident(l.collname)
                                               FROM pg_collation l JOIN pg_namespace cn ON cn.oid = l.collnamespace
                                              WHERE l.oid = a.attcollation AND a.attcollation <> t.typcollation),
                              CASE WHEN a.attstorage <> t.typstorage THEN 'storage ' || a.attstorage::text END,
                              'statistics ' || nullif(a.attstattarget, -1),
                              -- Releases from November 2026 on keep a version there; pg_dump leaves it out.
                              'options ' || (SELECT array_agg(o ORDER BY o COLLATE "C") FROM unnest(a.attoptions) o
                                              WHERE NOT starts_with(o, 'pg_attver='))::text,
                              CASE WHEN a.attacl IS NOT NULL THEN 'acl ' || {column_acl}::text END,
                              'comment ' || quote_literal(col_description(c.oid, a.attnum))) ORDER BY a.attnum)
                       FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND c.relpersistence <> 't' AND {user_schema} AND {class_not_member}
"""

SEQUENCES = """
SELECT 'sequence ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname),
       jsonb_build_object('owner', pg_get_userbyid(c.relowner),
                          'acl', {sequence_acl},
                          'persistence', {persistence},
                          'comment', obj_description(c.oid, 'pg_class'))
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND {user_schema} AND {class_not_member}
"""

FUNCTIONS = """
SELECT CASE p.prokind WHEN 'p' THEN 'procedure ' WHEN 'a' THEN 'aggregate ' ELSE 'function ' END
       || quote_ident(n.nspname) || '.' || quote_ident(p.proname) || '('
       || pg_get_function_identity_arguments(p.oid) || ')',
       jsonb_build_object(
         'owner', pg_get_userbyid(p.proowner),
         'acl', {function_acl},
         'comment', obj_description(p.oid, 'pg_proc'),
         'language', l.lanname,
         'returns', CASE WHEN p.proretset THEN 'setof ' ELSE '' END || format_type(p.prorettype, NULL),
         'argument_names', p.proargnames,
         'argument_defaults', p.pronargdefaults,
         'window', p.prokind = 'w',
         'volatility', CASE p.provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' ELSE 'volatile' END,
         'strict', p.proisstrict,
         'security_definer', p.prosecdef,
         'leakproof', p.proleakproof,
         'parallel', p.proparallel,
         'cost', p.procost::text,
         'rows', p.prorows::text,
         'settings', encode(sha256(convert_to(p.proconfig::text, 'UTF8')), 'hex'),
         'source', encode(sha256(convert_to(concat(p.prosrc, ' ', p.probin), 'UTF8')), 'hex'),
         'aggregate', (SELECT jsonb_build_array(a.aggtransfn::regprocedure::text, a.aggfinalfn::regproc::text,
                                                a.aggcombinefn::regproc::text, a.agginitval,
                                                format_type(a.aggtranstype, NULL))
                         FROM pg_aggregate a WHERE a.aggfnoid = p.oid))
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
 WHERE {user_schema} AND {proc_not_member}
   AND NOT EXISTS (SELECT FROM pg_depend d  -- constructors of range types
                    WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'i')
"""

# Row types and array types follow their tables and elements; a multirange follows its range.
TYPES = """
SELECT CASE t.typtype WHEN 'd' THEN 'domain ' WHEN 'e' THEN 'enum ' WHEN 'r' THEN 'range ' ELSE 'type ' END
       || quote_ident(n.nspname) || '.' || quote_ident(t.typname),
       jsonb_build_object(
         'owner', pg_get_userbyid(t.typowner),
         'acl', {type_acl},
         'comment', obj_description(t.oid, 'pg_type'),
         'base', CASE WHEN t.typbasetype <> 0 THEN format_type(t.typbasetype, t.typtypmod) END,
         'not_null', t.typnotnull,
         'default', t.typdefault IS NOT NULL,
         'collation', (SELECT l.collname FROM pg_collation l WHERE l.oid = t.typcollation),
         'labels', (SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
         'subtype', (SELECT format_type(r.rngsubtype, NULL) FROM pg_range r WHERE r.rngtypid = t.oid))
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE {user_schema} AND {type_not_member} AND t.typtype <> 'm'
   AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
   AND (t.typrelid = 0 OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
"""

# Not-null constraints are shown with their columns. A foreign key's copies on partitions get names of their own.
CONSTRAINTS = """
SELECT 'constraint ' || quote_ident(k.conname) || ' on '
       || CASE WHEN k.conrelid <> 0 THEN k.conrelid::regclass::text ELSE format_type(k.contypid, NULL) END,
       jsonb_build_object(
         'type', k.contype,
         'validated', k.convalidated,
         'enforced', coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true),
         'deferrable', k.condeferrable,
         'deferred', k.condeferred,
         'no_inherit', k.contype = 'c' AND k.connoinherit,
         'comment', obj_description(k.oid, 'pg_constraint'),
         'columns', (SELECT jsonb_agg(a.attname ORDER BY CASE k.contype WHEN 'c' THEN a.attnum ELSE u.n END)
                       FROM unnest(k.conkey) WITH ORDINALITY u (attnum, n)
                       JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum),
         'references', CASE WHEN k.contype = 'f' THEN k.confrelid::regclass::text END,
         'referenced_columns', (SELECT jsonb_agg(a.attname ORDER BY u.n)
                       FROM unnest(k.confkey) WITH ORDINALITY u (attnum, n)
                       JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum),
         'match', nullif(k.confmatchtype, ' '),
         'on_update', nullif(k.confupdtype, ' '),
         'on_delete', nullif(k.confdeltype, ' '),
         -- From 15 on; as JSON it is merely absent before.
         'on_delete_columns', (SELECT jsonb_agg(a.attname ORDER BY a.attnum)
                       FROM jsonb_array_elements_text(nullif(to_jsonb(k) -> 'confdelsetcols', 'null')) u (attnum)
                       JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum::smallint),
         'operators', (SELECT jsonb_agg(u.operator::regoperator::text ORDER BY u.n)
                       FROM unnest(k.conexclop) WITH ORDINALITY u (operator, n)))
  FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
 WHERE k.contype NOT IN ('n', 't') AND NOT (k.contype = 'f' AND k.conparentid <> 0) AND {user_schema}
   AND {constrained_class_not_member} AND {constrained_type_not_member}
"""

INDEXES = """
SELECT CASE WHEN i.indisvalid OR c.relkind = 'I' THEN 'index ' ELSE '{invalid_index} ' END
       || quote_ident(n.nspname) || '.' || quote_ident(c.relname),
       jsonb_build_object(
         'table', i.indrelid::regclass::text,
         'method', m.amname,
         'unique', i.indisunique,
         'nulls_not_distinct', coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false),
         'primary', i.indisprimary,
         'exclusion', i.indisexclusion,
         'valid', i.indisvalid,
         'immediate', i.indimmediate,
         'clustered', i.indisclustered,
         'replica_identity', i.indisreplident,
         'predicate', i.indpred IS NOT NULL,
         'options', (SELECT jsonb_agg(o ORDER BY o COLLATE "C") FROM unnest(c.reloptions) o),
         'key_columns', i.indnkeyatts,
         'columns', (SELECT jsonb_agg(concat_ws(' ', coalesce(quote_ident(a.attname), '(expression)'),
                              i.indoption[u.n - 1],
                              (SELECT quote_ident(o.opcname) FROM pg_opclass o WHERE o.oid = i.indclass[u.n - 1]),
                              (SELECT 'collate ' || quote_ident(l.collname)
                                 FROM pg_collation l WHERE l.oid = i.indcollation[u.n - 1])) ORDER BY u.n)
                       FROM unnest(i.indkey::smallint[]) WITH ORDINALITY u (attnum, n)
                       LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.attnum AND u.attnum <> 0),
         'parent', (SELECT h.inhparent::regclass::text FROM pg_inherits h WHERE h.inhrelid = c.oid),
         'comment', obj_description(c.oid, 'pg_class'))
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE {user_schema} AND c.relpersistence <> 't' AND {indexed_class_not_member}
"""

TRIGGERS = """
SELECT 'trigger ' || quote_ident(g.tgname) || ' on ' || g.tgrelid::regclass::text,
       jsonb_build_object('enabled', {trigger_enabled},
                          'function', g.tgfoid::regprocedure::text,
                          'when_and_level', g.tgtype,
                          'constraint', g.tgconstraint <> 0,
                          'deferrable', g.tgdeferrable,
                          'deferred', g.tginitdeferred,
                          'condition', g.tgqual IS NOT NULL,
                          'arguments', encode(g.tgargs, 'hex'),
                          'columns', (SELECT jsonb_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
                                       WHERE a.attrelid = g.tgrelid AND a.attnum = ANY (g.tgattr::smallint[])),
                          'transition_tables', jsonb_build_array(g.tgoldtable, g.tgnewtable),
                          'comment', obj_description(g.oid, 'pg_trigger'))
  FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT g.tgisinternal AND {user_schema} AND {class_not_member}
"""

RULES = """
SELECT 'rule ' || quote_ident(r.rulename) || ' on ' || r.ev_class::regclass::text,
       jsonb_build_object('event', r.ev_type, 'enabled', {rule_enabled}, 'instead', r.is_instead,
                          'comment', obj_description(r.oid, 'pg_rewrite'))
  FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE r.rulename <> '_RETURN' AND {user_schema} AND {class_not_member}
"""

POLICIES = """
SELECT 'policy ' || quote_ident(p.polname) || ' on ' || p.polrelid::regclass::text,
       jsonb_build_object('command', p.polcmd,
                          'permissive', p.polpermissive,
                          'roles', (SELECT jsonb_agg(CASE u.role WHEN 0 THEN 'PUBLIC'
                                                     ELSE quote_ident(pg_get_userbyid(u.role)) END
                                                     ORDER BY pg_get_userbyid(u.role)::text COLLATE "C")
                                      FROM unnest(p.polroles) u (role)),
                          'using', p.polqual IS NOT NULL,
                          'with_check', p.polwithcheck IS NOT NULL,
                          'comment', obj_description(p.oid, 'pg_policy'))
  FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE {user_schema}
"""

# The version is left out: a restore creates the version that the server offers.
EXTENSIONS = """
SELECT 'extension ' || quote_ident(e.extname),
       jsonb_build_object('schema', n.nspname)
  FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
"""

EVENT_TRIGGERS = """
SELECT 'event trigger ' || quote_ident(v.evtname),
       jsonb_build_object('owner', pg_get_userbyid(v.evtowner), 'event', v.evtevent, 'enabled', {event_trigger_enabled},
                          'function', v.evtfoid::regprocedure::text,
                          'tags', (SELECT jsonb_agg(t ORDER BY t COLLATE "C") FROM unnest(v.evttags) t),
                          'comment', obj_description(v.oid, 'pg_event_trigger'))
  FROM pg_event_trigger v
 WHERE {event_trigger_not_member}
"""

PUBLICATIONS = """
SELECT 'publication ' || quote_ident(p.pubname),
       jsonb_build_object('owner', pg_get_userbyid(p.pubowner), 'all_tables', p.puballtables,
                          'operations', concat_ws(' ', CASE WHEN p.pubinsert THEN 'insert' END,
                                                  CASE WHEN p.pubupdate THEN 'update' END,
                                                  CASE WHEN p.pubdelete THEN 'delete' END,
                                                  CASE WHEN p.pubtruncate THEN 'truncate' END),
                          'via_root', p.pubviaroot,
                          'tables', (SELECT jsonb_agg(concat_ws(' ', r.prrelid::regclass::text,
                                              (SELECT jsonb_agg(a.attname ORDER BY a.attnum)
                                                 FROM jsonb_array_elements_text(
                                                        nullif(to_jsonb(r) -> 'prattrs', 'null')) u (attnum)
                                                 JOIN pg_attribute a ON a.attrelid = r.prrelid
                                                                    AND a.attnum = u.attnum::smallint)::text,
                                              CASE WHEN to_jsonb(r) ->> 'prqual' IS NOT NULL THEN 'where' END)
                                                      ORDER BY r.prrelid::regclass::text COLLATE "C")
                                       FROM pg_publication_rel r WHERE r.prpubid = p.oid),
                          'comment', obj_description(p.oid, 'pg_publication'))
  FROM pg_publication p
"""

# The catalog came with version 15.
PUBLISHED_SCHEMAS = """
SELECT 'schemas of publication ' || quote_ident(p.pubname),
       jsonb_build_object('schemas', jsonb_agg(quote_ident(n.nspname) ORDER BY n.nspname COLLATE "C"))
  FROM pg_publication_namespace s JOIN pg_publication p ON p.oid = s.pnpubid JOIN pg_namespace n ON n.oid = s.pnnspid
 GROUP BY p.pubname
"""

DEFAULT_PRIVILEGES = """
SELECT 'default privileges of ' || quote_ident(pg_get_userbyid(d.defaclrole)) || ' on '
       || CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions'
               WHEN 'T' THEN 'types' WHEN 'n' THEN 'schemas'
               WHEN 'L' THEN 'large objects' ELSE d.defaclobjtype::text END
       || coalesce(' in schema ' || (SELECT quote_ident(nspname) FROM pg_namespace WHERE oid = d.defaclnamespace), ''),
       jsonb_build_object('acl', {default_acl})
  FROM pg_default_acl d
"""

STATISTICS = """
SELECT 'statistics ' || quote_ident(n.nspname) || '.' || quote_ident(s.stxname),
       jsonb_build_object('owner', pg_get_userbyid(s.stxowner), 'table', s.stxrelid::regclass::text,
                          'kinds', to_jsonb(s.stxkind),
                          'columns', (SELECT jsonb_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
                                       WHERE a.attrelid = s.stxrelid AND a.attnum = ANY (s.stxkeys::smallint[])),
                          'comment', obj_description(s.oid, 'pg_statistic_ext'))
  FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
 WHERE {user_schema}
"""

COLLATIONS = """
SELECT 'collation ' || quote_ident(n.nspname) || '.' || quote_ident(l.collname),
       jsonb_build_object('owner', pg_get_userbyid(l.collowner), 'provider', l.collprovider,
                          'deterministic', l.collisdeterministic,
                          'comment', obj_description(l.oid, 'pg_collation'))
  FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace
 WHERE {user_schema} AND {collation_not_member}
"""

# Options may hold secrets, so only their digest is kept; user mappings cannot be read by everybody.
FOREIGN_SERVERS = """
SELECT 'foreign server ' || quote_ident(s.srvname),
       jsonb_build_object('owner', pg_get_userbyid(s.srvowner), 'acl', {server_acl},
                          'wrapper', (SELECT fdwname FROM pg_foreign_data_wrapper WHERE oid = s.srvfdw),
                          'options', encode(sha256(convert_to(s.srvoptions::text, 'UTF8')), 'hex'),
                          'comment', obj_description(s.oid, 'pg_foreign_server'))
  FROM pg_foreign_server s
 WHERE {server_not_member}
"""

OPERATORS = """
SELECT 'operator ' || o.oid::regoperator::text,
       jsonb_build_object('owner', pg_get_userbyid(o.oprowner), 'function', o.oprcode::regprocedure::text,
                          'comment', obj_description(o.oid, 'pg_operator'))
  FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace
 WHERE {user_schema} AND {operator_not_member}
"""

# The casts of the system are pinned below the first OID of users (FirstNormalObjectId in access/transam.h).
CASTS = """
SELECT 'cast (' || format_type(s.castsource, NULL) || ' as ' || format_type(s.casttarget, NULL) || ')',
       jsonb_build_object('context', s.castcontext, 'method', s.castmethod,
                          'function', CASE WHEN s.castfunc <> 0 THEN s.castfunc::regprocedure::text END)
  FROM pg_cast s
 WHERE s.oid >= 16384 AND {cast_not_member}
"""

TEXT_SEARCH = """
SELECT 'text search configuration ' || quote_ident(n.nspname) || '.' || quote_ident(t.cfgname),
       jsonb_build_object('owner', pg_get_userbyid(t.cfgowner), 'mappings', (
         SELECT jsonb_agg(jsonb_build_array(m.maptokentype, m.mapseqno, m.mapdict::regdictionary::text)
                          ORDER BY m.maptokentype, m.mapseqno) FROM pg_ts_config_map m WHERE m.mapcfg = t.oid))
  FROM pg_ts_config t JOIN pg_namespace n ON n.oid = t.cfgnamespace
 WHERE {user_schema} AND {text_search_not_member}
"""

LARGE_OBJECTS = """
SELECT 'large object ' || o.oid,
       jsonb_build_object('owner', pg_get_userbyid(o.lomowner), 'acl', {large_object_acl},
                          'comment', obj_description(o.oid, 'pg_largeobject'))
  FROM pg_largeobject_metadata o
"""

FRAGMENTS = {
    "{user_schema}": USER_SCHEMA,
    "{invalid_index}": INVALID_INDEX,
    "{persistence}": "CASE c.relpersistence WHEN 'u' THEN 'unlogged' ELSE 'permanent' END",
    "{trigger_enabled}": _enabled("g.tgenabled"),
    "{rule_enabled}": _enabled("r.ev_enabled"),
    "{event_trigger_enabled}": _enabled("v.evtenabled"),
    "{schema_acl}": _acl("n.nspacl", "n", "n.nspowner"),
    "{relation_acl}": _acl("c.relacl", "r", "c.relowner"),
    "{column_acl}": ACL.replace("{acl}", "a.attacl"),
    "{sequence_acl}": _acl("c.relacl", "s", "c.relowner"),
    "{function_acl}": _acl("p.proacl", "f", "p.proowner"),
    "{type_acl}": _acl("t.typacl", "T", "t.typowner"),
    "{default_acl}": ACL.replace("{acl}", "d.defaclacl"),
    "{server_acl}": _acl("s.srvacl", "S", "s.srvowner"),
    "{large_object_acl}": _acl("o.lomacl", "L", "o.lomowner"),
    "{schema_not_member}": _not_member("pg_namespace", "n.oid"),
    "{class_not_member}": _not_member("pg_class", "c.oid"),
    "{indexed_class_not_member}": _not_member("pg_class", "i.indrelid"),
    "{constrained_class_not_member}": _not_member("pg_class", "k.conrelid"),
    "{constrained_type_not_member}": _not_member("pg_type", "k.contypid"),
    "{proc_not_member}": _not_member("pg_proc", "p.oid"),
    "{type_not_member}": _not_member("pg_type", "t.oid"),
    "{event_trigger_not_member}": _not_member("pg_event_trigger", "v.oid"),
    "{collation_not_member}": _not_member("pg_collation", "l.oid"),
    "{server_not_member}": _not_member("pg_foreign_server", "s.oid"),
    "{operator_not_member}": _not_member("pg_operator", "o.oid"),
    "{cast_not_member}": _not_member("pg_cast", "s.oid"),
    "{text_search_not_member}": _not_member("pg_ts_config", "t.oid"),
}

CLASSES = (
    SCHEMAS,
    RELATIONS,
    SEQUENCES,
    FUNCTIONS,
    TYPES,
    CONSTRAINTS,
    INDEXES,
    TRIGGERS,
    RULES,
    POLICIES,
    EXTENSIONS,
    EVENT_TRIGGERS,
    PUBLICATIONS,
    DEFAULT_PRIVILEGES,
    STATISTICS,
    COLLATIONS,
    FOREIGN_SERVERS,
    OPERATORS,
    CASTS,
    TEXT_SEARCH,
    LARGE_OBJECTS,
)


def read_objects(*, connection: Connection) -> dict[str, dict[str, Any]]:
    """Return the attributes of every object by its identity, such as ``index public.loan_pkey``.

    Attributes that are absent or false are left out. The connection's ``search_path`` must be ``pg_catalog``.
    """
    objects: dict[str, dict[str, Any]] = {}
    with connection.cursor() as cursor:
        for text in (*CLASSES, *([PUBLISHED_SCHEMAS] if connection.server_version >= 150000 else [])):
            query = text
            for name, fragment in FRAGMENTS.items():
                query = query.replace(name, fragment)
            cursor.execute(query)
            for identity, attributes in cursor.fetchall():
                objects[identity] = {key: value for key, value in attributes.items() if value not in (None, False)}
    return dict(sorted(objects.items()))
