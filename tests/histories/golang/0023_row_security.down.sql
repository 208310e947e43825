REVOKE SELECT (member_id, email) ON library.member FROM PUBLIC;
REVOKE USAGE ON SCHEMA library FROM PUBLIC;
DROP POLICY member_sees_itself ON library.member;
ALTER TABLE library.member DISABLE ROW LEVEL SECURITY;
