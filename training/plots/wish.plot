# A wish under a star.
cast: solo
lesson: [a wish for others is the best wish|wishes come true when you are kind|the stars like a kind heart]

<home> <oneday2>, {hero} [looked at the sky|could not sleep|sat by the window|was {place.in}]. A [bright|tiny|golden|big] star fell down!
<home> <oneday2>, {hero} saw a [tiny|soft|golden|blue] light {spot}. It was a [fallen|little|lost] star.
{Hero.full} loved the stars. Every [night|evening], {hero.he} looked at the sky. One night, a little star fell down. It fell {spot}.

"[Who are you|Are you a real star|Where do you come from]?" asked {hero}. "I am a [wishing star|little star]," it said. "[You may have one wish|You can make one wish|I will give you one wish]."
"[Please help me|I fell down|I want to go home]," said the star. {Hero} [held it with care|kept it warm|picked it up]. "You are kind," said the star. "You may make a wish."
The star [shone|spoke with a soft voice|blinked]. "[Make a wish|You have one wish|Tell me your wish]," it said.

{Hero} thought about it. {Hero.he} could wish for {toy.a}. {Hero.he} could wish for {toy2.a}. But [{hero.he} had enough toys|that was not right|{hero.he} shook {hero.his} head].
"I could wish for a mountain of [cake|candy|toys]," thought {hero}. But then {hero.he} thought of [others|{hero.his} family|all the animals].
{Hero} did not have to think long. 

"I wish for {wish}," {hero.he} said.
"My wish is {wish}," said {hero} <softly>.
{Hero} closed {hero.his} eyes. "Please give us {wish}," {hero.he} whispered.

--
The star [smiled|shone brighter|turned around three times]. "That is a good wish," it said. [Then it flew back to the sky|There was a flash of light|It became very bright].
"[A good wish|A kind wish]," said the star. "[Sleep now|Wait until morning|Go home and see]."

[And then|The next morning|Soon|When {hero} opened {hero.his} eyes], {wish.then}. "It came true!" [shouted|cried|said] {hero}.
[The next morning|A moment later], {wish.then}. {Hero} could not believe it.

Everyone was <happy>. [Nobody knew how it happened|Only {hero} knew the secret|They danced and sang].
{Hero} was <happy>. {Hero.he} [waved at the sky|looked up at the star|danced around]. "Thank you, little star!" {hero.he} said.
{Hero} told {grown} about the star. {Grown} [smiled|looked at the sky|gave {hero.him} a hug]. "[You have a good heart|I saw it too|That was a good wish]," {grown.he} said.

?
<moral>
<moral>
<moral>
And when {hero} looks at the sky, one star [winks|shines a little brighter].
