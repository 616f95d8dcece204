-- Who is registered for one app, and what is bound there, is found however many others there are. Subscribers come in
-- their order, so that mostly the end of each app's part is written.
CREATE INDEX registrations_of_app ON registrations (app);
